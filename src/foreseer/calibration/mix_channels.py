"""Corrections that mix channels: matrices fitted segment by segment on what scalar rows leave."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.attach.network.containers import flatten
from foreseer.calibration.final_error import FinalError, Reference
from foreseer.calibration.jobs import check_ready, check_teacher
from foreseer.calibration.mixing_moments import MixingFit, MixingMoments, choose_matrices
from foreseer.calibration.references import References, Work
from foreseer.calibration.refine import split_prompts
from foreseer.calibration.replay import PlannedRun, find_call, run_plan
from foreseer.calibration.rollout_moments import Student
from foreseer.calibration.row_directions import share_of_effects
from foreseer.calibration.sampler import sampler_matrix
from foreseer.checks import check_kind
from foreseer.errors import CalibrationError
from foreseer.methods.validate import ExpectedError, summarise
from foreseer.plan import Plan
from foreseer.plan.mixing import ChannelMixing, MixedSegment, check_axis


def mix_channels(
    pipe: Any,
    plan: Plan,
    prompts: Sequence[str],
    *,
    held_out: int | Sequence[str] | None = None,
    teacher_steps: int | None = None,
    channel_axis: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Plan:
    r"""Add corrections that mix channels to a plan, fitted on what its rows leave per segment.

    Prompts are rolled forward under the plan. With the features $F_0 \dots F_k$ of a segment's computed steps known,
    $r = x^*_e - x_e$ is what the sample at its end e lacks of the reference's, and the matrices
    $\arg\min \sum |r - \sum_j F_j M_j|^2 + \lambda |M|^2$ over all tokens (or pixels) of the fitted prompts correct it:
    forecasts of the segment get $p_i \sum_j F_j M_j$ more, $p_i$ in proportion to $L_{e,i+1}$, so that the sample at e
    moves by the sum. The next segment is fitted on the corrected trajectory. Held-out prompts choose the ridge of each
    segment; where no ridge helps them, the segment keeps its scalar rows, and where the whole plan's final error is not
    less, so does the plan. The cost is one reference run and K forward passes per prompt.

    Args:
        pipe: a diffusers pipeline, not attached, with the scheduler that the plan is for.
        plan: output site, any rows; corrections that it has are replaced.
        prompts: those held out among them. What counts is the number of tokens: K C or more.
        held_out: see :func:`foreseer.refine`.
        teacher_steps: follow the trajectory of a finer run with this many steps, from the same initial noise.
        channel_axis: where features have their channels: -1 for packed tokens, 1 for (B, C, ...), 2 for
            (B, F, C, H, W). By default from the shape of the scheduler's sample.
        checkpoint: a folder that keeps the reference runs; it may be removed afterwards.
        seed: of the first prompt's initial noise; each prompt has the next, held-out prompts last.
        progress: called with (steps of runs done, of all).
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Returns:
        The plan with its corrections, or with none; its provenance says which under "mixing".

    Raises:
        CalibrationError: too few prompts, a plan of another site, features of another shape than the sample, or runs
            that do not follow the plan from beginning to end.
        SamplerError: the scheduler is stochastic, or not linear.
    """
    check_kind("plan", plan, Plan, CalibrationError)
    check_teacher(teacher_steps, len(plan.grid))
    if channel_axis is not None:
        channel_axis = check_axis(channel_axis, CalibrationError)
    if plan.site != "output":
        raise CalibrationError(f"Channels are mixed at the output site; this plan takes features at {plan.site!r}.")
    prompts, seed, folder = check_ready(pipe, prompts, seed, checkpoint)
    fitted, judges = split_prompts(prompts, held_out, seed)
    plan = replace(plan, mixing=None)
    if not plan.forecast_steps:
        raise CalibrationError("This plan computes every step: no forecast is there to correct.")
    asked = str(options.get("num_inference_steps", plan.provenance.get("steps", "")))
    call, first = find_call(pipe, prompts[0], plan.grid, {**options, "output_type": "latent"}, asked)
    matrix = sampler_matrix(first.scheduler, first_step=first.first_step)
    finer = {**call, "num_inference_steps": teacher_steps or call["num_inference_steps"]}
    seeded = [*fitted, *judges]
    work = Work(progress, len(seeded) * (int(finer["num_inference_steps"]) + plan.nfe) + 2 * len(judges) * plan.nfe)
    references = References(pipe, plan.grid, matrix, finer, folder, branches=tuple(plan.branch_rows))
    names, coefficients, students = references.students(seeded, work)
    if plan.branch_rows and names != tuple(plan.branch_rows):
        raise CalibrationError(
            f"The plan has rows for {', '.join(plan.branch_rows)}, and guidance does not combine these linearly: "
            "its channels cannot be mixed."
        )
    axis = channel_axis_of(first.shape) if channel_axis is None else channel_axis
    fitting = _Fitting(pipe, call, matrix, names, coefficients, axis)
    mixed, fits = plan, []
    for start, end in itertools.pairwise((*plan.computed_steps, len(plan.grid))):
        if any(set(range(start, end)) - set(mixed.of_branch(name).computed_steps) for name in names or ("",)):
            mixed, fit = fitting.segment(mixed, start, end, students, len(fitted))
            fits.append(fit)
        work.did(len(students))
    final = FinalError(pipe, call, work)
    truths = [fitting.final(student) for student in students[len(fitted) :]]
    before, after = (summarise(final.errors(one, truths)) for one in (plan, mixed))
    return _described(plan, mixed, fits, before, after)


def _described(plan: Plan, mixed: Plan, fits: Sequence[MixingFit], before: ExpectedError, after: ExpectedError) -> Plan:
    """Return the mixed plan where held-out prompts have less error, else ``plan``, with provenance."""
    count = sum(fit.matrices is not None for fit in fits)
    if mixed.mixing is None or not after.mean < before.mean:
        why = f"of {len(fits)} segments {count} had less error on held-out prompts"
        why += ", the final sample had not" if count else ""
        return replace(plan, provenance={**plan.provenance, "mixing": f"none: {why}"})
    words = (
        f"{mixed.mixing.channels} channels (axis {mixed.mixing.axis}) in {count} of {len(fits)} segments; held-out "
        f"error {before.mean:.4f} before, {after.mean:.4f} after"
    )
    return replace(mixed, provenance={**plan.provenance, "mixing": words, "expected_error": str(after)})


@dataclass
class _Fitting:
    """What the fits of all segments share.

    Attributes:
        pipe: the pipeline.
        call: options of its call.
        matrix: the sampler matrix.
        names: branches with separate rows.
        coefficients: by which guidance combines them.
        axis: of the channels.
        starts: by prompt and seed, the initial noise, flattened.
    """

    pipe: Any
    call: dict[str, Any]
    matrix: np.ndarray
    names: tuple[str, ...]
    coefficients: np.ndarray
    axis: int
    starts: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def segment(
        self, plan: Plan, start: int, end: int, students: Sequence[Student], fitted: int
    ) -> tuple[Plan, MixingFit]:
        """Fit the corrections of the steps from ``start`` to ``end``; the plan with them, where they help."""
        sums: list[MixingMoments | None] = [None, None]
        for index, student in enumerate(students):
            found = run_plan(
                self.pipe, plan, student.prompt, student.seed, self.call, outputs=student.seen, stop_after=end
            )
            features, missing = self._tokens(plan, found, student, start, end)
            moments, of_fitted = MixingMoments.of(features, missing), index >= fitted
            known = sums[of_fitted]
            sums[of_fitted] = moments if known is None else known + moments
        assert sums[0] is not None
        assert sums[1] is not None
        fit = choose_matrices(sums[0], sums[1])
        return (plan, fit) if fit.matrices is None else (self._corrected(plan, start, end, fit.matrices), fit)

    def _tokens(
        self, plan: Plan, found: PlannedRun, student: Student, start: int, end: int
    ) -> tuple[list[Tensor], Tensor]:
        """Return computed features of all branches and what the sample lacks at ``end``, shape (N, C) each."""
        trajectory = found.trajectory
        assert trajectory.start is not None
        self.starts[student.prompt, student.seed] = trajectory.start
        effects = torch.as_tensor(self.matrix[end, 1 : end + 1]).to(student.targets[end])
        missing = student.targets[end] - effects @ torch.stack(trajectory.outputs[:end]).to(student.targets[end])
        features = []
        for name in self.names or ("",):
            for step in _sources(plan, name, start):
                key = (name or found.branches[0], step + trajectory.first_step)
                tensors = flatten(found.outputs[key])
                if len(tensors) != 1 or tuple(tensors[0].shape[1:]) != trajectory.shape[1:]:
                    raise CalibrationError(
                        f"The network's outputs have shapes {[tuple(one.shape) for one in tensors]}, the sample has "
                        f"{trajectory.shape}: their channels cannot be mixed."
                    )
                features.append(tensors[0] if name else trajectory.outputs[step])
        tokens = [_as_tokens(tensor, trajectory.shape, self.axis) for tensor in (*features, missing)]
        return tokens[:-1], tokens[-1]

    def _corrected(self, plan: Plan, start: int, end: int, matrices: np.ndarray) -> Plan:
        segments = list(plan.mixing.segments) if plan.mixing is not None else []
        position = 0
        for name, coefficient in zip(self.names or ("",), self.coefficients, strict=True):
            sources = _sources(plan, name, start)
            own = matrices[position : position + len(sources)] / coefficient
            position += len(sources)
            steps = [step for step in range(start, end) if step not in plan.of_branch(name).computed_steps]
            if steps:
                shares = share_of_effects(self.matrix[end, 1:][steps])
                segments.append(MixedSegment(name, tuple(steps), shares, sources, own.astype(np.float32)))
        return replace(plan, mixing=ChannelMixing(self.axis, tuple(segments)))

    def final(self, student: Student) -> Reference:
        """The reference's final sample."""
        share = float(self.matrix[-1, 0])
        sample = student.targets[-1] + share * self.starts[student.prompt, student.seed].to(student.targets[-1])
        return Reference(student.prompt, student.seed, sample)


def channel_axis_of(shape: tuple[int, ...]) -> int:
    """Return the channel axis of a scheduler's sample: last in packed tokens, else after the batch.

    Raises:
        CalibrationError: it has another number of dimensions.

    >>> channel_axis_of((1, 4096, 64)), channel_axis_of((1, 4, 128, 128))
    (-1, 1)
    """
    if not 3 <= len(shape) <= 5:
        raise CalibrationError(f"Where a sample of shape {shape} has its channels is unknown: give channel_axis.")
    return -1 if len(shape) == 3 else 1


def _as_tokens(tensor: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Shape (N, C), in float32."""
    return tensor.reshape(shape).movedim(axis, -1).reshape(-1, shape[axis]).float()


def _sources(plan: Plan, branch: str, start: int) -> tuple[int, ...]:
    return tuple(step for step in plan.of_branch(branch).computed_steps if step <= start)
