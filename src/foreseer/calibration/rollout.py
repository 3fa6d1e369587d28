"""Rollout: rows fitted segment by segment on the perturbed trajectory, steering back to the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.attach.output_site import OutputSite
from foreseer.attach.pipeline import attach
from foreseer.attach.site import Forward
from foreseer.attach.tracker import TrackedBranch
from foreseer.calibration.calibrate import CalibrationError, check_ready
from foreseer.calibration.record import gram, record_run
from foreseer.calibration.sampler import sampler_matrix
from foreseer.forecast.kernel import KernelRows, ridge_solve
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.kernel.interpolate import interpolation_weights
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


@dataclass
class Student:
    """One calibration prompt, rolled forward.

    Attributes:
        prompt: its words.
        seed: of its initial noise.
        reference: outputs of the full run at this grid's steps.
        targets: for each step e, the reference's sample there less the initial noise's share in it.
        seen: the network's outputs on the perturbed trajectory, by branch and step.
        features: guided outputs at the computed steps so far.
    """

    prompt: str
    seed: int
    reference: list[Tensor]
    targets: list[Tensor]
    seen: dict[tuple[str, int], Any] = field(default_factory=dict)
    features: list[Tensor] = field(default_factory=list)


@dataclass
class Moments:
    """Pooled inner products of the computed features so far: among themselves, with references and with targets."""

    among: np.ndarray
    with_reference: np.ndarray
    with_targets: np.ndarray


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
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Plan:
    r"""Fit a plan's rows where they will be used: on trajectories that the plan itself has perturbed.

    The calibration prompts are rolled forward under the rows fitted so far. With the features of the computed steps
    $s_0 \dots s_k$ known, the rows of the next segment are chosen so that the sample at its end e comes closest to the
    reference's: $\sum_i L_{e,i+1} \hat F_i \approx x^*_e - L_{e0} x_{\text{init}} - \sum_{j \le s_k} L_{e,j+1} F_j$,
    with the sum over the segment and L the sampler matrix. Each step's own least squares row is the prior; the
    correction is spread over the segment in proportion to $L_{e,i+1}$. The cost is about one more full run a prompt.

    Args:
        pipe: a diffusers pipeline, not attached, with the scheduler that the plan is for.
        kernel: from :func:`calibrate`, recorded on the grid of the plan.
        prompts: a handful.
        nfe: how many steps compute, chosen by search on the kernel; or
        schedule: a rule that says which.
        teacher_steps: follow the trajectory of a finer run with so many steps instead, from the same initial noise.
        seed: of the first prompt's initial noise; the next has the next.
        ridge: relative to the features' mean square.
        progress: called with (network evaluations done, in all).
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Returns:
        A plan for the kernel's grid, output site.

    Raises:
        CalibrationError: no prompt, not one of ``nfe`` and ``schedule``, or a teacher that is not finer.
        SamplerError: the scheduler is stochastic, or not linear.
    """
    check_ready(pipe, prompts)
    if (nfe is None) == (schedule is None):
        raise CalibrationError("A rollout needs one of nfe and schedule.")
    steered = replace(kernel, response=STEERED * kernel.response)
    rule = schedule if schedule is not None else Optimal(steered, nfe=nfe)
    computed = rule.on(kernel.grid)
    call = {**options, "num_inference_steps": len(kernel.grid), "output_type": "latent"}
    work = Work(progress, len(prompts) * (teacher_steps or len(kernel.grid)) + len(prompts) * len(computed))
    finer = {**call, "num_inference_steps": teacher_steps or len(kernel.grid)}
    matrix = _own_matrix(pipe, prompts[0], call)
    students = _references(pipe, kernel.grid, matrix, list(enumerate(prompts, seed)), call=finer, work=work)
    rows = KernelRows(kernel).rows(computed, kernel.grid)
    moments = Moments(np.zeros((0, 0)), np.zeros((0, len(kernel.grid))), np.zeros((0, len(kernel.grid) + 1)))
    words = f"rollout on {len(prompts)} prompts, ridge {ridge:g}, teacher {teacher_steps or 'same'}"
    known = {name: kernel.provenance.get(name, "") for name in ("model", "guidance")}
    provenance = {"forecaster": words, "schedule": repr(rule), **known}
    for index, step in enumerate(computed):
        plan = Plan(kernel.grid, computed, rows, "output", provenance)
        for student in students:
            _advance(pipe, plan, student, step, call)
            work.did(1)
        moments = _grown(moments, students)
        end = computed[index + 1] if index + 1 < len(computed) else len(kernel.grid)
        if end > step + 1:
            rows[step + 1 : end] = _segment(moments, rows, matrix, computed[: index + 1], end=end, ridge=ridge)
    return Plan(kernel.grid, computed, rows, "output", provenance)


class Work:
    """Counts network evaluations for a progress bar."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def did(self, evaluations: int) -> None:
        """So many more are done."""
        self._done += evaluations
        if self._progress is not None:
            self._progress(self._done, self._total)


def _references(
    pipe: Any, grid: Grid, matrix: np.ndarray, seeded: list[tuple[int, str]], *, call: dict[str, Any], work: Work
) -> list[Student]:
    """A student a prompt, with the outputs and samples of its reference run at the levels of ``grid``."""
    students: list[Student] = []
    for seed, prompt in seeded:
        with record_run(pipe) as trajectory:
            pipe(**call_arguments(pipe, prompt, call), generator=torch.Generator().manual_seed(seed))
        assert trajectory.start is not None
        outputs = torch.stack(trajectory.outputs).float()
        at, through = _at_levels(grid, trajectory.grid, sampler_matrix(trajectory.scheduler))
        reference = torch.as_tensor(at).to(outputs) @ outputs
        targets = torch.as_tensor(through[:, 1:]).to(outputs) @ outputs
        targets += torch.as_tensor(through[:, :1] - matrix[:, :1]).to(outputs) * trajectory.start.to(outputs)
        students.append(Student(prompt, seed, list(reference), list(targets)))
        work.did(len(outputs))
    return students


def _at_levels(grid: Grid, finer: Grid, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What gives the outputs, and the samples, of a run on ``finer`` at the levels of ``grid``."""
    if finer.unit != grid.unit or len(finer) < len(grid):
        raise CalibrationError(
            f"A reference of {len(finer)} steps ({finer.unit}) is no finer than the kernel's grid of {len(grid)} "
            f"({grid.unit}): take more teacher steps, with the scheduler that the kernel was recorded with."
        )
    at = interpolation_weights(finer.levels, grid.levels)
    return at, np.vstack([at @ matrix[:-1], matrix[-1:]])


def _own_matrix(pipe: Any, prompt: str, call: dict[str, Any]) -> np.ndarray:
    """The sampler matrix of the plan's own grid, from a run that ends after one step."""
    with record_run(pipe, stop_after=1) as trajectory:
        pipe(**call_arguments(pipe, prompt, call), generator=torch.Generator().manual_seed(0))
    return sampler_matrix(trajectory.scheduler)


def _advance(pipe: Any, plan: Plan, student: Student, step: int, call: dict[str, Any]) -> None:
    """Run to ``step`` under ``plan``: earlier evaluations are replayed, the one at ``step`` is new."""
    site = ReplaySite(student.seen)
    with attach(pipe, plan, strict=True, make_site=lambda module: site), record_run(pipe, step + 1) as trajectory:
        pipe(**call_arguments(pipe, student.prompt, call), generator=torch.Generator().manual_seed(student.seed))
    student.features.append(trajectory.outputs[step])


def _grown(moments: Moments, students: list[Student]) -> Moments:
    """The moments with the newest feature of every student."""
    count = len(students[0].features)
    among = np.zeros((count, count))
    among[:-1, :-1] = moments.among
    newest_among = np.zeros(count)
    newest_reference = np.zeros(moments.with_reference.shape[1])
    newest_targets = np.zeros(moments.with_targets.shape[1])
    for student in students:
        newest = student.features[-1:]
        newest_among += gram(newest, student.features)[0] / len(students)
        newest_reference += gram(newest, student.reference)[0] / len(students)
        newest_targets += gram(newest, student.targets)[0] / len(students)
    among[-1] = among[:, -1] = newest_among
    return Moments(
        among,
        np.vstack([moments.with_reference, newest_reference]),
        np.vstack([moments.with_targets, newest_targets]),
    )


def _segment(
    moments: Moments, rows: np.ndarray, matrix: np.ndarray, known: Sequence[int], *, end: int, ridge: float
) -> np.ndarray:
    """The rows of the steps between the last known computed step and ``end``; shape (steps, T)."""
    steps = np.arange(known[-1] + 1, end)
    strength = ridge * float(np.trace(moments.among)) / len(known)
    prior = np.stack([ridge_solve(moments.among, moments.with_reference[:, step], strength) for step in steps])
    through = matrix[end, 1:]
    past = through[: known[-1] + 1] @ rows[: known[-1] + 1][:, list(known)]
    wanted = moments.with_targets[:, end] - moments.among @ past
    correction = ridge_solve(moments.among, wanted - moments.among @ (through[steps] @ prior), strength)
    share = through[steps] / float(through[steps] @ through[steps])
    fitted = np.zeros((steps.size, rows.shape[0]))
    fitted[:, list(known)] = prior + np.outer(share, correction)
    return fitted
