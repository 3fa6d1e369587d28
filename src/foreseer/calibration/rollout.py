"""Rollout: rows fitted segment by segment on the perturbed trajectory, steering back to the reference."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from foreseer.attach.network.containers import flatten
from foreseer.calibration.calibrate import CalibrationError, check_ready
from foreseer.calibration.identity import guidance_of
from foreseer.calibration.references import References, Work
from foreseer.calibration.replay import find_call, run_plan
from foreseer.calibration.rollout_moments import Moments, Student
from foreseer.calibration.sampler import sampler_matrix
from foreseer.forecast.joint_rows import JointRows
from foreseer.forecast.kernel_rows import BRANCH_WEIGHT, KernelRows
from foreseer.kernel import Kernel
from foreseer.methods.learned import SENSITIVITY_WITH_FEEDBACK
from foreseer.plan import Plan
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
    evaluations: int | None = None,
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
        evaluations: how many calls of the network, of all branches of guidance together, each branch at steps of its
            own; or
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
        CalibrationError: no prompt, not one of ``nfe``, ``evaluations`` and ``schedule``, a kernel of another site, a
            teacher that is not finer, or a checkpoint that cannot be read.
        SamplerError: the scheduler is stochastic, or not linear.
    """
    check_ready(pipe, prompts)
    rule = _rule(kernel, {"nfe": nfe, "evaluations": evaluations}, schedule)
    computed = rule.on(kernel.grid)
    latent = {**options, "output_type": "latent"}
    call, first = find_call(pipe, prompts[0], kernel.grid, latent, kernel.provenance.get("steps", ""))
    matrix = sampler_matrix(first.scheduler, first_step=first.first_step)
    finer = {**call, "num_inference_steps": teacher_steps or call["num_inference_steps"]}
    work = Work(progress, len(prompts) * (finer["num_inference_steps"] + len(computed)))
    branches = kernel.branches.names if kernel.branches is not None else ()
    references = References(pipe, kernel.grid, matrix, finer, checkpoint, branches=branches)
    names, mixing, students = references.students(list(enumerate(prompts, seed)), work)
    words = f"rollout on {len(prompts)} prompts, ridge {ridge:g}, teacher {teacher_steps or 'same'}"
    made = {"forecaster": words, "schedule": repr(rule), "guidance": guidance_of(call)}
    made["steps"] = str(call["num_inference_steps"])
    draft = _Draft(kernel, rule, names, mixing, made)
    return _fitted(pipe, draft, students, matrix, ridge=ridge, call=call, work=work)


def _rule(kernel: Kernel, budget: dict[str, int | None], schedule: Schedule | None) -> Schedule:
    given = {name: value for name, value in budget.items() if value is not None}
    if len(given) + (schedule is not None) != 1:
        raise CalibrationError("A rollout needs one of nfe, evaluations and schedule.")
    if kernel.site != "output":
        raise CalibrationError(f"A rollout is for the output site; this kernel is of the site {kernel.site!r}.")
    if schedule is not None:
        return schedule
    steered = replace(kernel, sensitivity=SENSITIVITY_WITH_FEEDBACK * kernel.sensitivity)
    return Joint(steered, given["evaluations"]) if "evaluations" in given else Optimal(steered, nfe=given["nfe"])


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
    branches, total = len(draft.mixing), len(matrix) - 1
    moments = Moments.none(branches, matrix)
    branch_weight = BRANCH_WEIGHT if branches > 1 else 0.0
    rows = JointRows(
        moments, draft.mixing, draft.steps, total, ridge=ridge, branch_weight=branch_weight, feedback_gain=1.0
    )
    for step, end in itertools.pairwise((*draft.computed, total)):
        newest = [b for b in range(branches) if step in draft.steps[b]]
        plan = draft.plan(rows)
        for student in students:
            _advance(pipe, plan, student, step, names=[draft.names[b] for b in newest if draft.names], call=call)
            work.did(1)
        moments.grow(students, [total * b + step for b in newest])
        rows.fit(step, end)
    return draft.plan(rows)


class _Draft:
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


def _advance(pipe: Any, plan: Plan, student: Student, step: int, *, names: list[str], call: dict[str, Any]) -> None:
    """Run to ``step`` under ``plan``: outputs of earlier steps are replayed, the one at ``step`` is new."""
    found = run_plan(pipe, plan, student.prompt, student.seed, call, outputs=student.seen, stop_after=step + 1)
    trajectory = found.trajectory
    if names:
        outputs = (student.seen[name, step + trajectory.first_step] for name in names)
        student.features += [flatten(output)[0].reshape(-1) for output in outputs]
    else:
        student.features.append(trajectory.outputs[step])
