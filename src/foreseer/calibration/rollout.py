"""Rollout: rows fitted segment by segment on the perturbed trajectory, steering back to the reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.attach.containers import flatten
from foreseer.attach.output_site import OutputSite
from foreseer.attach.pipeline import attach
from foreseer.attach.site import Forward
from foreseer.attach.tracker import TrackedBranch
from foreseer.calibration.calibrate import CalibrationError, check_ready
from foreseer.calibration.moments import Moments, Student
from foreseer.calibration.record import record_run
from foreseer.calibration.references import References, Work
from foreseer.calibration.sampler import sampler_matrix
from foreseer.forecast.kernel import KernelRows
from foreseer.kernel import Kernel
from foreseer.pipelines import call_arguments
from foreseer.plan import Plan
from foreseer.schedule import Schedule
from foreseer.schedule.optimal import Optimal

RIDGE = 1e-6
STEERED = 0.5  # of the network's response: rows that steer back leave less error for it to answer (see benchmarks)


class ReplaySite(OutputSite):
    """The output site, giving back what the network gave before at steps that it has seen; shared by all branches."""

    def __init__(self, seen: dict[tuple[str, int], Any]) -> None:
        self._seen = seen

    def compute(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], branch: TrackedBranch
    ) -> tuple[Any, list[Tensor]]:
        """Replay the step, or run the network and remember."""
        key = (branch.name, branch.run.last_step + 1)

        def remembered(*args: Any, **kwargs: Any) -> Any:
            if key not in self._seen:
                self._seen[key] = forward(*args, **kwargs)
            return self._seen[key]

        return super().compute(remembered, args, kwargs, branch)


def rollout(
    pipe: Any,
    kernel: Kernel,
    prompts: Sequence[str],
    *,
    nfe: int | None = None,
    schedule: Schedule | None = None,
    teacher_steps: int | None = None,
    seed: int = 0,
    ridge: float = RIDGE,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Plan:
    r"""Fit a plan's rows where they will be used: on trajectories that the plan itself has perturbed.

    The calibration prompts are rolled forward under the rows fitted so far. With the features of the computed steps
    $s_0 \dots s_k$ known, the rows of the next segment are chosen so that the sample at its end e comes closest to the
    reference's: $\sum_i L_{e,i+1} \hat F_i \approx x^*_e - L_{e0} x_{\text{init}} - \sum_{j \le s_k} L_{e,j+1} F_j$,
    with the sum over the segment and L the sampler matrix. Each step's own least squares row is the prior; the
    correction is spread over the segment in proportion to $L_{e,i+1}$. The cost is about one more full run a prompt.
    Where the kernel knows the branches of guidance, features are those of all branches, and each branch gets rows of
    its own; the shared rows, for other branches, are then the kernel's.

    Args:
        pipe: a diffusers pipeline, not attached, with the scheduler that the plan is for.
        kernel: from :func:`calibrate`, recorded on the grid of the plan.
        prompts: a handful.
        nfe: how many steps compute, chosen by search on the kernel; or
        schedule: a rule that says which.
        teacher_steps: follow the trajectory of a finer run with so many steps instead, from the same initial noise.
        seed: of the first prompt's initial noise; the next has the next.
        ridge: relative to the features' mean square.
        checkpoint: a folder that keeps each prompt's reference run, most of the work; found there again, it is not run
            again. The folder may be removed afterwards.
        progress: called with (network evaluations done, in all).
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Returns:
        A plan for the kernel's grid, output site.

    Raises:
        CalibrationError: no prompt, not one of ``nfe`` and ``schedule``, a kernel of another site, a teacher that is
            not finer, or a checkpoint that cannot be read.
        SamplerError: the scheduler is stochastic, or not linear.
    """
    check_ready(pipe, prompts)
    rule = _rule(kernel, nfe, schedule)
    computed = rule.on(kernel.grid)
    call = {**options, "num_inference_steps": len(kernel.grid), "output_type": "latent"}
    finer = {**call, "num_inference_steps": teacher_steps or len(kernel.grid)}
    work = Work(progress, len(prompts) * (finer["num_inference_steps"] + len(computed)))
    matrix = _own_matrix(pipe, prompts[0], call)
    references = References(pipe, kernel, matrix, finer, checkpoint)
    names, mixing, students = references.students(list(enumerate(prompts, seed)), work)
    words = f"rollout on {len(prompts)} prompts, ridge {ridge:g}, teacher {teacher_steps or 'same'}"
    draft = _Draft(kernel, computed, names, mixing, {"forecaster": words, "schedule": repr(rule)})
    return _fitted(pipe, draft, students, matrix, ridge=ridge, call=call, work=work)


def _rule(kernel: Kernel, nfe: int | None, schedule: Schedule | None) -> Schedule:
    if (nfe is None) == (schedule is None):
        raise CalibrationError("A rollout needs one of nfe and schedule.")
    if kernel.site != "output":
        raise CalibrationError(f"A rollout is for the output site; this kernel is of the site {kernel.site!r}.")
    return schedule or Optimal(replace(kernel, response=STEERED * kernel.response), nfe=nfe)


def _fitted(
    pipe: Any,
    draft: _Draft,
    students: list[Student],
    matrix: np.ndarray,
    *,
    ridge: float,
    call: dict[str, Any],
    work: Work,
) -> Plan:
    """Roll the students from computed step to computed step, fitting the rows of each segment on the way."""
    steps = draft.rows.shape[1]
    moments = Moments.none(len(draft.mixing), steps)
    for index, step in enumerate(draft.computed):
        plan = draft.plan()
        for student in students:
            _advance(pipe, plan, student, step, names=draft.names, call=call)
            work.did(1)
        moments = moments.grown(students)
        known, end = draft.computed[: index + 1], (*draft.computed, steps)[index + 1]
        if end > step + 1:
            segment = moments.segment(draft.rows, draft.mixing, matrix, known, end=end, ridge=ridge)
            draft.rows[:, step + 1 : end] = segment
    return draft.plan()


class _Draft:
    """The plan as far as it is fitted; the rest has the kernel's rows.

    Attributes:
        computed: the steps that compute.
        names: the branches' names, none where they share their rows.
        mixing: how guidance combines them, shape (B,).
        rows: shape (B, T, T), those of each branch.
    """

    def __init__(
        self,
        kernel: Kernel,
        computed: tuple[int, ...],
        names: tuple[str, ...],
        mixing: np.ndarray,
        provenance: dict[str, str],
    ) -> None:
        self.computed = computed
        self.names = names
        self.mixing = mixing
        self._grid = kernel.grid
        known = {name: kernel.provenance.get(name, "") for name in ("model", "guidance")}
        self._provenance = {**provenance, **known}
        self._shared = KernelRows(kernel).rows(computed, kernel.grid)
        self.rows = np.tile(self._shared, (len(mixing), 1, 1))

    def plan(self) -> Plan:
        """A plan of the present rows."""
        own = dict(zip(self.names, self.rows, strict=True)) if self.names else {}
        shared = self._shared if self.names else self.rows[0]
        return Plan(self._grid, self.computed, shared, "output", self._provenance, own)


def _own_matrix(pipe: Any, prompt: str, call: dict[str, Any]) -> np.ndarray:
    """The sampler matrix of the plan's own grid, from a run that ends after one step."""
    with record_run(pipe, stop_after=1) as trajectory:
        pipe(**call_arguments(pipe, prompt, call), generator=torch.Generator().manual_seed(0))
    return sampler_matrix(trajectory.scheduler)


def _advance(
    pipe: Any, plan: Plan, student: Student, step: int, *, names: tuple[str, ...], call: dict[str, Any]
) -> None:
    """Run to ``step`` under ``plan``: earlier evaluations are replayed, the one at ``step`` is new."""
    site = ReplaySite(student.seen)
    with attach(pipe, plan, strict=True, make_site=lambda module: site), record_run(pipe, step + 1) as trajectory:
        pipe(**call_arguments(pipe, student.prompt, call), generator=torch.Generator().manual_seed(student.seed))
    if names:
        outputs = (student.seen[name, step + trajectory.first_step] for name in names)
        student.features.append([flatten(output)[0].reshape(-1) for output in outputs])
    else:
        student.features.append([trajectory.outputs[step]])
