"""Corrections that mix channels: matrices fitted segment by segment on what scalar rows leave."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.attach.network.containers import flatten
from foreseer.calibration.job_checks import check_ready, check_teacher, split_prompts
from foreseer.calibration.jobs import Work
from foreseer.calibration.mixing_moments import MixingFit, MixingMoments, choose_matrices
from foreseer.calibration.replay import PlannedRun, run_plan
from foreseer.calibration.row_directions import share_of_effects
from foreseer.calibration.students import MeasureFinal, StudentJob, StudentSetting
from foreseer.checks import check_kind
from foreseer.errors import CalibrationError
from foreseer.forecast.joint_rows import network_begins
from foreseer.methods.validate import clearly_less, measured_error, typical_error
from foreseer.plan import Plan
from foreseer.plan.file import digest_of
from foreseer.plan.mixing import START, ChannelMixing, MixedSegment, check_axis
from foreseer.scale import Place, Task, Unit, Worker, model_of, place_of


def mix_channels(
    pipe: Any,
    plan: Plan,
    prompts: Sequence[Any],
    *,
    held_out: int | Sequence[Any] | None = None,
    teacher_steps: int | None = None,
    channel_axis: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    workers: int | Place | None = None,
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
    less, so does the plan. The cost is one reference run and K forward passes per prompt, 2 K more per held-out one.

    Args:
        pipe: a diffusers pipeline, not attached, with the scheduler that the plan is for.
        plan: output site, any rows; corrections that it has are replaced.
        prompts: those held out among them. What counts is the number of tokens: K C or more.
        held_out: see :func:`foreseer.refine`.
        teacher_steps: follow the trajectory of a finer run with this many steps, from the same initial noise.
        channel_axis: where features have their channels: -1 for packed tokens, 1 for (B, C, ...), 2 for
            (B, F, C, H, W). By default from the shape of the scheduler's sample.
        checkpoint: a folder that keeps the reference runs and each segment's moments; it may be removed afterwards.
        seed: of the first prompt's initial noise; each prompt has the next, held-out prompts last.
        workers: where prompts are run, as in :func:`foreseer.rollout`.
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
    prompts, seed, folder = check_ready(pipe, prompts, seed, checkpoint, named=True)
    fitted, judges = split_prompts(prompts, held_out, seed)
    plan = replace(plan, mixing=None)
    if not plan.forecast_steps:
        raise CalibrationError("This plan computes every step: no forecast is there to correct.")
    seeded = [*fitted, *judges]
    work = Work(progress, (len(seeded) + 2 * len(judges)) * plan.nfe)
    with place_of(workers).pool() as pool:
        job = StudentJob.begin(
            pool,
            model_of(pipe),
            plan.grid,
            seeded,
            options,
            recorded=str(options.get("num_inference_steps", plan.provenance.get("steps", ""))),
            branches=tuple(plan.branch_rows),
            teacher_steps=teacher_steps,
            checkpoint=folder,
            work=work,
        )
        axis = channel_axis_of(job.setting.shape) if channel_axis is None else channel_axis
        mixed, fits = _Fitting(job, axis, len(fitted)).whole(plan)
        errors = [_final_errors(job, each, len(fitted)) for each in (plan, mixed)]
    mixed = replace(mixed, provenance={**plan.provenance, **job.setting.runs.origin})
    return _described(plan, mixed, fits, *errors)


def _final_errors(job: StudentJob, plan: Plan, first: int) -> np.ndarray:
    """Relative errors of the final samples of the students from ``first`` on, under ``plan``."""
    task = MeasureFinal(job.setting, job.names, (plan,))
    results = job.on_all("final", task, {"plan": digest_of(plan)}, plan.nfe, first=first)
    return np.concatenate([np.frombuffer(result) for result in results])


def _described(plan: Plan, mixed: Plan, fits: Sequence[MixingFit], before: np.ndarray, after: np.ndarray) -> Plan:
    """Return the mixed plan where held-out prompts have less error, else ``plan``, with provenance."""
    count = sum(fit.matrices is not None for fit in fits)
    if mixed.mixing is None or not clearly_less(after, before):
        why = f"of {len(fits)} segments {count} had less error on held-out prompts"
        why += ", the final sample not clearly" if count else ""
        return replace(plan, provenance={**plan.provenance, "mixing": f"none: {why}"})
    done = (
        f"{mixed.mixing.channels} channels (axis {mixed.mixing.axis}) in {count} of {len(fits)} segments; typical "
        f"held-out error {typical_error(before):.4f} before, {typical_error(after):.4f} after"
    )
    words = {"mixing": done, "expected_error": str(measured_error(after))}
    return replace(mixed, provenance={**mixed.provenance, **words})


@dataclass(frozen=True)
class _Fitting:
    """What the fits of all segments share.

    Attributes:
        job: the students.
        axis: of the channels.
        fitted: number of students that matrices are fitted on; the others choose the ridge.
        roll: token of the students' runs.
    """

    job: StudentJob
    axis: int
    fitted: int
    roll: str = field(default_factory=lambda: secrets.token_hex(8))

    def whole(self, plan: Plan) -> tuple[Plan, list[MixingFit]]:
        """Fit every segment with forecasts, in order; the plan with the corrections that help, and all fits.

        Raises:
            CalibrationError: guidance does not combine the plan's branches linearly.
        """
        names, fits = self.job.names, []
        if plan.branch_rows and names != tuple(plan.branch_rows):
            raise CalibrationError(
                f"The plan has rows for {', '.join(plan.branch_rows)}, and guidance does not combine these linearly: "
                "its channels cannot be mixed."
            )
        for start, end in itertools.pairwise((*plan.computed_steps, len(plan.grid))):
            if any(set(range(start, end)) - set(plan.of_branch(name).computed_steps) for name in names or ("",)):
                plan, fit = self.segment(plan, start, end)
                fits.append(fit)
            else:
                self.job.work.did(len(self.job.seeded))
        return plan, fits

    def segment(self, plan: Plan, start: int, end: int) -> tuple[Plan, MixingFit]:
        """Fit the corrections of the steps from ``start`` to ``end``; the plan with them, where they help."""
        begin = network_begins(self.job.handovers, start)
        task = MeasureMissing(self.job.setting, self.job.names, plan, begin, start, end, self.axis, self.roll)
        more = {"plan": digest_of(plan), "end": str(end), "axis": str(self.axis)}
        channels = self.job.setting.shape[self.axis]
        results = self.job.on_all(f"mixing-{start:03d}", task, more)
        moments = [MixingMoments.decode(result, channels).relative() for result in results]
        least = min(len(one.among) for one in moments)  # without the first sample, where some runs do not give it
        moments = [one.without_first() if len(one.among) > least else one for one in moments]
        fitted, held_out = reduce(add, moments[: self.fitted]), reduce(add, moments[self.fitted :])
        fit = choose_matrices(fitted, held_out)
        if len(fitted.among) > channels * sum(len(sources) for sources in self._sources_of(plan, start).values()):
            without = choose_matrices(fitted.without_first(), held_out.without_first())
            fit = min(without, fit, key=lambda each: each.kept)
        return (plan, fit) if fit.matrices is None else (self._corrected(plan, start, end, fit.matrices), fit)

    def _sources_of(self, plan: Plan, start: int) -> dict[str, tuple[int, ...]]:
        """By branch, the computed steps whose features may correct the segment that begins at ``start``."""
        begin = network_begins(self.job.handovers, start)
        return {name: _sources(plan, name, begin, start) for name in self.job.names or ("",)}

    def _corrected(self, plan: Plan, start: int, end: int, matrices: np.ndarray) -> Plan:
        segments = list(plan.mixing.segments) if plan.mixing is not None else []
        every = self._sources_of(plan, start)
        if len(matrices) > sum(map(len, every.values())):  # the first branch mixes the first sample too
            first = next(iter(every))
            every[first] = (START, *every[first])
        position = 0
        for name, coefficient in zip(self.job.names or ("",), self.job.mixing, strict=True):
            sources = every[name]
            own = matrices[position : position + len(sources)] / coefficient
            position += len(sources)
            steps = [step for step in range(start, end) if step not in plan.of_branch(name).computed_steps]
            if steps:
                shares = share_of_effects(self.job.setting.references.matrix[end, 1:][steps])
                segments.append(MixedSegment(name, tuple(steps), shares, sources, own.astype(np.float32)))
        return replace(plan, mixing=ChannelMixing(self.axis, tuple(segments)))


@dataclass(frozen=True)
class MeasureMissing(Task):
    """Run a student to ``end``; the result is moments of its features and of what its sample lacks.

    Args:
        setting: of the job.
        names: of the branches with separate rows.
        plan: with the corrections of the steps before ``start``.
        begin: first step of the network that computes the segment.
        start: last computed step of the segment.
        end: of the segment.
        axis: of the channels.
        roll: token of the students' runs.
    """

    setting: StudentSetting
    names: tuple[str, ...]
    plan: Plan
    begin: int
    start: int
    end: int
    axis: int
    roll: str

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One student, one segment: known outputs are replayed."""
        prompt, seed = unit.payload
        student = self.setting.rolled(worker, unit, self.names, self.roll)
        pipe, options = self.setting.runs.on(worker)
        call, end = self.setting.runs.call(options), self.end
        found = run_plan(pipe, self.plan, prompt, seed, call, outputs=student.seen, stop_after=end)
        target = student.targets[end]
        effects = torch.as_tensor(self.setting.references.matrix[end, 1 : end + 1]).to(target)
        missing = target - effects @ torch.stack(found.trajectory.outputs[:end]).to(target)
        shape = found.trajectory.shape
        features, lacks = self._features(found), missing.reshape(shape)
        tokens = [as_tokens(tensor, shape, self.axis) for tensor in (*features, lacks)]
        return MixingMoments.of(tokens[:-1], tokens[-1]).encode()

    def _features(self, found: PlannedRun) -> list[Tensor]:
        """The first sample, if the segment may use it, and computed features of all branches."""
        trajectory = found.trajectory
        start = None if self.begin or not (self.names or found.carries_start) else found.start
        features = [] if start is None else [start]
        for name in self.names or ("",):
            for step in _sources(self.plan, name, self.begin, self.start):
                tensors = flatten(found.outputs[name or found.branches[0], step + trajectory.first_step])
                if len(tensors) != 1 or tuple(tensors[0].shape[1:]) != trajectory.shape[1:]:
                    raise CalibrationError(
                        f"The network's outputs have shapes {[tuple(tensor.shape) for tensor in tensors]}, the sample "
                        f"has {trajectory.shape}: their channels cannot be mixed."
                    )
                features.append(tensors[0] if name else trajectory.outputs[step])
        return features


class UnknownAxisError(CalibrationError):
    """Where a sample has its channels cannot be read from its shape."""


def channel_axis_of(shape: tuple[int, ...]) -> int:
    """Return the channel axis of a scheduler's sample: last in packed tokens, else after the batch.

    Raises:
        UnknownAxisError: it has another number of dimensions.

    >>> channel_axis_of((1, 4096, 64)), channel_axis_of((1, 4, 128, 128))
    (-1, 1)
    """
    if not 3 <= len(shape) <= 5:
        raise UnknownAxisError(f"Where a sample of shape {shape} has its channels is unknown: give channel_axis.")
    return -1 if len(shape) == 3 else 1


def as_tokens(tensor: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Tokens or pixels of a sample as rows, shape (N, C), in float32."""
    return tensor.reshape(shape).movedim(axis, -1).reshape(-1, shape[axis]).float()


def _sources(plan: Plan, branch: str, begin: int, start: int) -> tuple[int, ...]:
    return tuple(step for step in plan.of_branch(branch).computed_steps if begin <= step <= start)
