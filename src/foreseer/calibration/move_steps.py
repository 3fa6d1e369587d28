"""Local moves of a plan's computed steps, judged by the measured error of short rollouts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.calibration.final_error import FinalSetting, RunFinalReference
from foreseer.calibration.job_checks import check_ready, check_teacher, split_prompts
from foreseer.calibration.jobs import Work, on_prompts
from foreseer.calibration.replay import PlannedRun
from foreseer.calibration.rollout import RolledPlan, RolloutFit
from foreseer.calibration.students import Source
from foreseer.checks import check_count, check_kind
from foreseer.errors import CalibrationError
from foreseer.kernel import Kernel
from foreseer.methods.validate import clearly_less, typical_error
from foreseer.plan import Plan
from foreseer.plan.file import digest_of
from foreseer.scale import Place, Task, Unit, Worker, model_of, place_of
from foreseer.schedule import Explicit

Steps = tuple[int, ...]
MOVED = "moved"  # in a worker's memory: runs of held-out prompts, by roll
GAIN = 0.01  # relative decrease of the error below which a move is not made


def move_steps(
    pipe: Any,
    plan: Plan,
    kernel: Kernel,
    prompts: Sequence[Any],
    *,
    max_passes: int,
    held_out: int | Sequence[Any] | None = None,
    teacher_steps: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    workers: int | Place | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Plan:
    """Move computed steps of a plan one by one where the measured error of a rollout is less.

    A search on a kernel compares expected errors; here each candidate is rolled out on a few prompts and its final
    samples are measured on others. Each step may move one step earlier or later. Moves that help are kept, and the
    search continues from there until none helps or the budget is spent. Outputs up to the last computed step before a
    move are replayed, so that a move of step k of K costs K - k forward passes per prompt and branch of guidance.

    Args:
        pipe: a diffusers pipeline, not attached, with the scheduler that the plan is for.
        plan: whose computed steps are moved; all branches compute at the same.
        kernel: of the plan's grid.
        prompts: a handful; those held out among them.
        max_passes: forward passes to spend at most on measuring, those of the reference runs not counted.
        held_out: prompts that measure, see :func:`foreseer.refine`.
        teacher_steps: follow the trajectory of a finer run with this many steps.
        checkpoint: a folder that keeps the reference runs; it may be removed afterwards.
        seed: of the first prompt's initial noise; each prompt has the next, held-out prompts last.
        workers: where prompts are run, as in :func:`foreseer.rollout`.
        progress: called with (forward passes done, budget).
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Returns:
        A rollout on the best steps found, or ``plan`` itself where no move helps. Its provenance says under "moved"
        what was tried.

    Raises:
        CalibrationError: too few prompts, a kernel of another grid, or branches at different steps.
        SamplerError: the scheduler is stochastic, or not linear.
    """
    check_kind("plan", plan, Plan, CalibrationError)
    check_kind("kernel", kernel, Kernel, CalibrationError)
    check_count("max_passes", max_passes, CalibrationError, least=1)
    check_teacher(teacher_steps, len(plan.grid))
    if not plan.grid.matches(kernel.grid):
        raise CalibrationError("The kernel has another grid than the plan: calibrate with the plan's number of steps.")
    if any(plan.of_branch(name).computed_steps != plan.computed_steps for name in plan.branch_rows):
        raise CalibrationError("Branches of this plan compute at steps of their own: those are not moved.")
    prompts, seed, folder = check_ready(pipe, prompts, seed, checkpoint, named=True)
    fitted, judges = split_prompts(prompts, held_out, seed)
    with place_of(workers).pool() as pool:
        fit = RolloutFit.begin(
            pool,
            model_of(pipe),
            kernel,
            fitted,
            options,
            teacher_steps=teacher_steps,
            checkpoint=folder,
            work=Work(None, 0),
        )
        trials = _Trials(fit, judges, Work(progress, max_passes), max_passes, folder)
        trials.measure("final-reference", RunFinalReference(trials.setting))
        start = plan.computed_steps
        moves = lambda steps: neighbours(steps, len(plan.grid), fit.job.handovers)  # noqa: E731
        best, errors = climb(start, trials.error, moves, trials.surely)
    tried = f"{len(errors)} sets of steps tried in {trials.work.done} forward passes"
    if best == start or start not in errors:
        return replace(plan, provenance={**plan.provenance, "moved": f"none: {tried}"})
    moved = trials.rolled[best].plan
    tried += f"; typical held-out error {errors[start]:.4f} on the first steps, {errors[best]:.4f} on these"
    return replace(moved, provenance={**moved.provenance, "moved": tried, "expected_error": f"{errors[best]:.4f}"})


def neighbours(steps: Steps, total: int, fixed: Steps = ()) -> list[Steps]:
    """Return sets with one step that is not ``fixed`` moved by one, late and cheap moves first.

    >>> neighbours((0, 2, 3), 5)
    [(0, 2, 4), (0, 1, 3)]
    """
    moves = []
    for index in range(len(steps) - 1, 0, -1):
        for step in (steps[index] - 1, steps[index] + 1):
            if 0 < step < total and step not in steps and steps[index] not in fixed:
                moves.append((*steps[:index], step, *steps[index + 1 :]))
    return moves


def climb(
    start: Steps,
    error: Callable[[Steps, Steps], float | None],
    moves: Callable[[Steps], Iterable[Steps]],
    surely: Callable[[Steps, Steps], bool] = lambda move, best: True,
) -> tuple[Steps, dict[Steps, float]]:
    """Make moves that lessen the error until none does; return the best set and all errors measured.

    Args:
        start: where to begin.
        error: of a set, given the set that it is a move of; ``None`` ends the search.
        moves: sets that are one move away.
        surely: whether the error of one set is less than another's by more than chance.

    >>> best, errors = climb((0, 5), lambda steps, near: abs(steps[1] - 2.0), lambda s: neighbours(s, 10))
    >>> best, len(errors)
    ((0, 2), 5)
    """
    first = error(start, start)
    if first is None:
        return start, {}
    best, errors = start, {start: first}
    while True:
        for move in moves(best):
            if move in errors:
                continue
            found = error(move, best)
            if found is None:
                return best, errors
            errors[move] = found
            if found < (1 - GAIN) * errors[best] and surely(move, best):
                best = move
                break
        else:
            return best, errors


@dataclass
class _Trials:
    """Rolls out and measures sets of computed steps.

    Attributes:
        fit: of the rollouts.
        judges: the prompts that are held out.
        work: counts forward passes.
        most: of them.
        folder: where references are kept; ``None`` keeps none.
    """

    fit: RolloutFit
    judges: Sequence[tuple[int, Any]]
    work: Work
    most: int
    folder: Path | None

    def __post_init__(self) -> None:
        folder = os.path.abspath(self.folder) if self.folder is not None else None
        self.setting = FinalSetting(self.fit.job.setting.runs, self.fit.job.setting.teacher_steps, folder)
        self.rolled: dict[Steps, RolledPlan] = {}
        self.errors: dict[Steps, np.ndarray] = {}

    def error(self, steps: Steps, near: Steps) -> float | None:
        """Typical held-out error (geometric mean); ``None`` where measuring would exceed the budget."""
        shared = _agreed_until(steps, near) if near in self.rolled else -1
        new = sum(step > shared for step in steps)
        cost = new * max(1, len(self.fit.job.names)) * (len(self.fit.job.seeded) + len(self.judges))
        if self.work.done + cost > self.most:
            return None
        source = Source(self.rolled[near].roll, shared) if near in self.rolled else None
        rolled = self.rolled[steps] = self.fit.fit(Explicit(steps, of=len(self.fit.kernel.grid)), source)
        task = MeasureRolled(self.setting, rolled, source)
        results = self.measure("moved", task, plan=digest_of(rolled.plan), shared=str(shared))
        passes, errors = np.array([np.frombuffer(result) for result in results]).T
        self.work.did(rolled.forward_passes + int(passes.sum()))
        self.errors[steps] = errors
        return typical_error(errors)

    def surely(self, move: Steps, best: Steps) -> bool:
        """Whether a move gains more than chance on the held-out prompts."""
        return clearly_less(self.errors[move], self.errors[best])

    def measure(self, kind: str, task: Task, **more: str) -> list[bytes]:
        """The results of the held-out prompts, see :func:`on_prompts`."""
        identity, job = {**self.setting.identity, **more}, self.fit.job
        return on_prompts(
            job.pool, task, self.judges, kind=kind, identity=identity, store=job.store, work=Work(None, 0)
        )


@dataclass(frozen=True)
class MeasureRolled(Task):
    """Measure a rollout, replaying what a run of its source has if the worker holds it.

    The result, in float64, is the forward passes after the replayed outputs, and the relative error.
    """

    setting: FinalSetting
    rolled: RolledPlan
    source: Source | None

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One prompt."""
        final, reference = self.setting.begin(worker, unit)
        source = self.source or Source("", -1)
        held: dict[str, dict[str | None, PlannedRun]] = worker.memory.get(MOVED, {})
        before, runs = (held.get(roll, {}) for roll in (source.roll, self.rolled.roll))
        worker.memory[MOVED] = {source.roll: before, self.rolled.roll: runs}
        outputs = before[unit.home].until(source.until) if unit.home in before else {}
        found, error = final.run(self.rolled.plan, reference, outputs)
        runs[unit.home] = found
        first = found.trajectory.first_step
        passes = sum(step - first > source.until for _, step in found.outputs)
        return np.array([passes, float(error.double().norm())]).tobytes()


def _agreed_until(steps: Steps, near: Steps) -> int:
    """The last computed step up to which two rollouts have the same outputs: the segment after it differs."""
    for index, (one, other) in enumerate(zip(steps, near, strict=True)):
        if one != other:
            return steps[index - 1]
    return steps[-1]
