"""Rollout: rows fitted segment by segment on the perturbed trajectory, steering back to the reference."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.attach.network.containers import flatten
from foreseer.calibration.identity import guidance_of
from foreseer.calibration.jobs import check_prompts, check_ready, check_seed, check_teacher, make_folder
from foreseer.calibration.references import References, Work
from foreseer.calibration.replay import Outputs, find_call, run_plan
from foreseer.calibration.rollout_moments import Moments, Student
from foreseer.calibration.sampler import sampler_matrix
from foreseer.checks import check_kind, check_number, one_target
from foreseer.errors import CalibrationError
from foreseer.forecast.joint_rows import JointRows
from foreseer.forecast.kernel_rows import BRANCH_WEIGHT, KernelRows
from foreseer.kernel import Kernel
from foreseer.methods.learned import SENSITIVITY_WITH_FEEDBACK
from foreseer.plan import Plan
from foreseer.scale import Model, Place, model_of, place_of
from foreseer.schedule import Schedule
from foreseer.schedule.joint import Joint
from foreseer.schedule.optimal import Optimal

RIDGE = 1e-6


def rollout(
    pipe: Any,
    kernel: Kernel,
    prompts: Sequence[str],
    *,
    nfe: int | None = None,
    forward_passes: int | None = None,
    schedule: Schedule | None = None,
    teacher_steps: int | None = None,
    seed: int = 0,
    ridge: float = RIDGE,
    checkpoint: str | os.PathLike[str] | None = None,
    workers: int | Place | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Plan:
    r"""Fit a plan's rows where they will be used: on trajectories that the plan itself has perturbed.

    The calibration prompts are rolled forward under the rows fitted so far. With the features of the computed steps
    $s_0 \dots s_k$ known, the rows of the next segment are chosen so that the sample at its end e comes closest to the
    reference's: $\sum_i L_{e,i+1} \hat F_i \approx x^*_e - L_{e0} x_{\text{init}} - \sum_{j \le s_k} L_{e,j+1} F_j$,
    with the sum over the segment and L the sampler matrix. Each step's own least squares row is the prior; the
    correction is spread over the segment in proportion to $L_{e,i+1}$. The cost is about one more full run per
    prompt. If the kernel was recorded by guidance branch, rows are fitted for each branch separately, on the features
    of all branches; any other branch uses the kernel's shared rows.

    Args:
        pipe: a diffusers pipeline, not attached, with the scheduler that the plan is for.
        kernel: from :func:`calibrate`, recorded on the grid of the plan.
        prompts: calibration prompts; a handful suffices.
        nfe: number of computed steps, chosen by search on the kernel; or
        forward_passes: calls of the network, summed over guidance branches, which may compute at different steps; or
        schedule: rule that selects the computed steps.
        teacher_steps: number of steps of a finer run, from the same initial noise, to use as the reference.
        seed: seed of the first prompt's initial noise; each further prompt uses the next seed.
        ridge: relative to the features' mean square.
        checkpoint: folder where each prompt's reference run, most of the work, is saved; a later call reuses the saved
            runs. The folder may be removed afterwards.
        workers: where prompts are run: a number of processes on this machine, or a :class:`foreseer.scale.Place`; by
            default this process. The plan is equal bit for bit. Then ``pipe`` is a name from which workers build their
            pipeline (:class:`foreseer.scale.Model`), and a checkpoint also keeps the fit of each segment.
        progress: called with (forward passes done, total).
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Returns:
        A plan for the kernel's grid, output site.

    Raises:
        CalibrationError: no prompt, not one of ``nfe``, ``forward_passes`` and ``schedule``, a kernel of another site,
            a teacher that is not finer, or a checkpoint that cannot be read.
        SamplerError: the scheduler is stochastic, or not linear.
    """
    check_kind("kernel", kernel, Kernel, CalibrationError)
    check_number("ridge", ridge, CalibrationError)
    check_teacher(teacher_steps, len(kernel.grid))
    prompts, seed = check_prompts(prompts), check_seed(seed)
    rule = _rule(kernel, {"nfe": nfe, "forward_passes": forward_passes}, schedule)
    checkpoint = make_folder(checkpoint)
    if workers is not None or isinstance(pipe, str | Path | Model):
        from foreseer.calibration.rollout_workers import rollout_on

        with place_of(workers).pool() as pool:
            seeds = list(enumerate(prompts, seed))
            settings = (rule, teacher_steps, ridge, checkpoint)
            return rollout_on(pool, model_of(pipe), kernel, seeds, settings, options=options, progress=progress)
    work = Work(progress, len(prompts) * len(rule.on(kernel.grid)))
    seeded = list(enumerate(prompts, seed))
    fit = prepare_rollout(
        pipe, kernel, seeded, teacher_steps=teacher_steps, ridge=ridge, checkpoint=checkpoint, work=work, **options
    )
    return fit.fit(rule).plan


def _rule(kernel: Kernel, budget: dict[str, int | None], schedule: Schedule | None) -> Schedule:
    target = one_target(CalibrationError, {**budget, "schedule": schedule}, required=True)
    if schedule is not None:
        check_kind("schedule", schedule, Schedule, CalibrationError)
        return schedule
    steered = replace(kernel, sensitivity=SENSITIVITY_WITH_FEEDBACK * kernel.sensitivity)
    joint = "forward_passes" in target
    return Joint(steered, target["forward_passes"]) if joint else Optimal(steered, nfe=target["nfe"])


@dataclass(frozen=True)
class RolledPlan:
    """A plan fitted by rollout.

    Attributes:
        plan: the plan.
        outputs: for each prompt, the network's outputs at computed steps.
        forward_passes: calls of the network that the fit took.
    """

    plan: Plan
    outputs: list[Outputs] = field(repr=False)
    forward_passes: int


@dataclass(frozen=True)
class RolloutFit:
    """Fits rollouts of any schedule on the same references.

    Attributes:
        pipe: the pipeline.
        kernel: its moments, on the grid of the plans.
        call: options of the pipeline's call.
        first_step: of its runs on the scheduler's grid.
        matrix: the sampler matrix.
        names: the branches' names, none where they share their rows.
        mixing: how guidance combines them, shape (B,).
        students: the prompts with their references, not rolled forward.
        ridge: relative to the features' mean square.
        provenance: text for the plans.
        work: counts steps.
    """

    pipe: Any
    kernel: Kernel
    call: dict[str, Any]
    first_step: int
    matrix: np.ndarray
    names: tuple[str, ...]
    mixing: np.ndarray
    students: list[Student]
    ridge: float
    provenance: dict[str, str]
    work: Work

    def fit(self, rule: Schedule, known: Sequence[Outputs] | None = None) -> RolledPlan:
        """Roll the prompts from computed step to computed step, fitting the rows of each segment on the way.

        Args:
            rule: says which steps compute.
            known: for each prompt, outputs that need no call of the network: those of a rollout whose computed steps
                agree up to them.
        """
        draft = Draft(self.kernel, rule, self.names, self.mixing, {**self.provenance, "schedule": repr(rule)})
        seen = known if known is not None else [{} for _ in self.students]
        students = [replace(one, seen=dict(each), features=[]) for one, each in zip(self.students, seen, strict=True)]
        branches, total, passes = len(self.mixing), len(self.matrix) - 1, 0
        moments = Moments.none(branches, self.matrix)
        weight = BRANCH_WEIGHT if branches > 1 else 0.0
        rows = JointRows(
            moments, self.mixing, draft.steps, total, ridge=self.ridge, branch_weight=weight, feedback_gain=1.0
        )
        for step, end in itertools.pairwise((*draft.computed, total)):
            newest = [b for b in range(branches) if step in draft.steps[b]]
            plan, names = draft.plan(rows), [self.names[b] for b in newest if self.names]
            for student in students:
                passes += _advance(self.pipe, plan, student, step, names=names, call=self.call)
                self.work.did(1)
            moments.grow(students, [total * b + step for b in newest])
            rows.fit(step, end)
        return RolledPlan(draft.plan(rows), [student.seen for student in students], passes)


def prepare_rollout(
    pipe: Any,
    kernel: Kernel,
    seeded: Sequence[tuple[int, str]],
    *,
    teacher_steps: int | None,
    ridge: float,
    checkpoint: str | os.PathLike[str] | None,
    work: Work,
    **options: Any,
) -> RolloutFit:
    """Run the reference of each prompt; arguments as those of :func:`rollout`.

    Raises:
        CalibrationError, SamplerError: as :func:`rollout`.
    """
    prompts = [prompt for _, prompt in seeded]
    check_ready(pipe, prompts)
    if kernel.site != "output":
        raise CalibrationError(f"A rollout is for the output site; this kernel is of the site {kernel.site!r}.")
    latent = {**options, "output_type": "latent"}
    call, first = find_call(pipe, prompts[0], kernel.grid, latent, kernel.provenance.get("steps", ""))
    matrix = sampler_matrix(first.scheduler, first_step=first.first_step)
    finer = {**call, "num_inference_steps": teacher_steps or call["num_inference_steps"]}
    work.total += len(prompts) * int(finer["num_inference_steps"])
    branches = kernel.branches.names if kernel.branches is not None else ()
    references = References(pipe, kernel.grid, matrix, finer, checkpoint, branches=branches)
    names, mixing, students = references.students(list(seeded), work)
    words = f"rollout on {len(prompts)} prompts, ridge {ridge:g}, teacher {teacher_steps or 'same'}"
    provenance = {"forecaster": words, "guidance": guidance_of(call), "steps": str(call["num_inference_steps"])}
    start = first.first_step
    return RolloutFit(pipe, kernel, call, start, matrix, names, mixing, students, ridge, provenance, work)


class Draft:
    """The plan as far as it is fitted; the rest reuses.

    Attributes:
        computed: the steps at which any branch computes.
        names: the branches' names, none where they share their rows.
        mixing: how guidance combines them, shape (B,).
        steps: for each branch its computed steps.
    """

    def __init__(
        self, kernel: Kernel, rule: Schedule, names: tuple[str, ...], mixing: np.ndarray, provenance: dict[str, str]
    ) -> None:
        self.computed = rule.on(kernel.grid)
        self.names = names
        self.mixing = mixing
        apart = rule.branch_steps(kernel.grid) if names else {}
        self.steps = [np.array(apart.get(name, self.computed)) for name in names or ("",)]
        self._grid = kernel.grid
        known = {name: kernel.provenance.get(name, "") for name in ("model", "denoiser")}
        self._provenance = {**provenance, **known}
        self._shared = KernelRows(kernel).rows(self.computed, kernel.grid)

    def plan(self, found: JointRows) -> Plan:
        """A plan of the present rows."""
        if not self.names:
            return Plan(self._grid, self.computed, found.rows[0], "output", self._provenance)
        own = dict(zip(self.names, found.rows, strict=True))
        cross = {(self.names[b], self.names[c]): rows for (b, c), rows in found.cross.items()}
        return Plan(self._grid, self.computed, self._shared, "output", self._provenance, own, cross)


def _advance(pipe: Any, plan: Plan, student: Student, step: int, *, names: list[str], call: dict[str, Any]) -> int:
    """Run to ``step`` under ``plan``, replaying known outputs; the number of calls of the network."""
    found = run_plan(pipe, plan, student.prompt, student.seed, call, outputs=student.seen, stop_after=step + 1)
    trajectory = found.trajectory
    if names:
        outputs = (student.seen[name, step + trajectory.first_step] for name in names)
        student.features += [flatten(output)[0].reshape(-1) for output in outputs]
    else:
        student.features.append(trajectory.outputs[step])
    return found.forward_passes
