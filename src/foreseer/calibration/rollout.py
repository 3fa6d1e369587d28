"""Rollout: rows fitted segment by segment on the perturbed trajectory, steering back to the reference."""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.attach.network.containers import flatten
from foreseer.calibration.identity import fingerprint
from foreseer.calibration.job_checks import check_ready, check_teacher
from foreseer.calibration.jobs import Work
from foreseer.calibration.replay import run_plan
from foreseer.calibration.rollout_draft import Draft
from foreseer.calibration.rollout_moments import RIDGE, Moments, Share
from foreseer.calibration.students import Source, StudentJob, StudentSetting
from foreseer.checks import check_kind, check_number, one_target
from foreseer.errors import CalibrationError
from foreseer.forecast.joint_rows import JointRows
from foreseer.forecast.kernel_rows import BRANCH_WEIGHT
from foreseer.kernel import Kernel
from foreseer.kernel.kernel_file import encode_kernel
from foreseer.methods.learned import searches_with_feedback
from foreseer.methods.validate import typical_error
from foreseer.plan import Plan
from foreseer.scale import Place, Task, Unit, Worker, model_of, place_of
from foreseer.scale.model import AnyModel
from foreseer.scale.place import Pool
from foreseer.schedule import Schedule


def rollout(
    pipe: Any,
    kernel: Kernel,
    prompts: Sequence[Any],
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
    correction is spread over the segment in proportion to $L_{e,i+1}$, and weighs the run's first sample too, where the
    network receives it in the shape of its output. The cost is one more full run per prompt, and NFE forward passes for
    each set of steps that is tried. If the kernel was recorded by guidance branch, rows are fitted for each branch
    separately, on the features of all branches; any other branch uses the kernel's shared rows. If the network returns
    several tensors (video and sound), rows are fitted for the first, and the further ones have the kernel's rows.

    Args:
        pipe: a diffusers pipeline, not attached, with the scheduler that the plan is for.
        kernel: from :func:`calibrate`, recorded on the grid of the plan.
        prompts: calibration prompts; a handful suffices.
        nfe: number of computed steps, chosen by searches on the kernel; up to four sets of steps are rolled out, and
            the one with the least error on the prompts is kept; or
        forward_passes: calls of the network, summed over guidance branches, which may compute at different steps; or
        schedule: rule that selects the computed steps.
        teacher_steps: number of steps of a finer run, from the same initial noise, to use as the reference.
        seed: seed of the first prompt's initial noise; each further prompt uses the next seed.
        ridge: relative to the features' mean square.
        checkpoint: folder where each prompt's reference run and each segment's moments are saved; a later call resumes
            from it. It may be removed afterwards.
        workers: where prompts are run: a number of processes on this machine, or a :class:`foreseer.scale.Place`; by
            default this process. The plan is equal bit for bit. Workers need the name of a pipeline as ``pipe``
            (:class:`foreseer.scale.Model`).
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
    rules = _rules(kernel, {"nfe": nfe, "forward_passes": forward_passes}, schedule)
    prompts, seed, folder = check_ready(pipe, prompts, seed, checkpoint, named=True)
    work = Work(progress, len(prompts) * sum(len(rule.on(kernel.grid)) for rule in rules))
    with place_of(workers).pool() as pool:
        seeded = list(enumerate(prompts, seed))
        fit = RolloutFit.begin(
            pool, model_of(pipe), kernel, seeded, options, teacher_steps=teacher_steps, checkpoint=folder, work=work
        )
        return replace(fit, ridge=ridge).best(rules)


def _rules(kernel: Kernel, budget: dict[str, int | None], schedule: Schedule | None) -> Sequence[Schedule]:
    """Return the schedule given, or those to choose from."""
    target = one_target(CalibrationError, {**budget, "schedule": schedule}, required=True)
    if schedule is not None:
        check_kind("schedule", schedule, Schedule, CalibrationError)
        return [schedule]
    return searches_with_feedback(kernel, **target)


@dataclass(frozen=True)
class RolledPlan:
    """A plan fitted by rollout.

    Attributes:
        plan: the plan.
        roll: token of the students' runs.
        forward_passes: calls of the network that the fit took.
        errors: mean square error of each prompt's final sample, shape (P,).
    """

    plan: Plan
    roll: str
    forward_passes: int
    errors: Float64[np.ndarray, " P"]


@dataclass(frozen=True)
class RolloutFit:
    """Fits rollouts of any schedule on the same references; the end of each segment is a barrier.

    Attributes:
        job: the students, not rolled forward.
        kernel: moments of the pipeline, on the grid of the plans.
        teacher: says what the references are.
        ridge: relative to the features' mean square.
    """

    job: StudentJob
    kernel: Kernel
    teacher: str
    ridge: float = RIDGE

    @classmethod
    def begin(
        cls,
        pool: Pool,
        model: AnyModel,
        kernel: Kernel,
        seeded: Sequence[tuple[int, Any]],
        options: Mapping[str, Any],
        *,
        teacher_steps: int | None,
        checkpoint: str | os.PathLike[str] | None,
        work: Work,
    ) -> RolloutFit:
        """Run the reference of each prompt; arguments as those of :func:`rollout`.

        Raises:
            CalibrationError, SamplerError: as :func:`rollout`.
        """
        if kernel.site != "output":
            raise CalibrationError(f"A rollout is for the output site; this kernel is of the site {kernel.site!r}.")
        job = StudentJob.begin(
            pool,
            model,
            kernel.grid,
            seeded,
            options,
            recorded=kernel.provenance.get("steps", ""),
            branches=kernel.branches.names if kernel.branches is not None else (),
            teacher_steps=teacher_steps,
            checkpoint=checkpoint,
            work=work,
        )
        return cls(job, kernel, f"teacher {teacher_steps or 'same'}")

    def best(self, rules: Sequence[Schedule]) -> Plan:
        """Return the rollout under which the prompts' final samples err least, as a geometric mean."""
        rolled = [self.fit(rule) for rule in rules]
        found = min(rolled, key=lambda one: typical_error(one.errors))
        if len(rolled) == 1:
            return found.plan
        tried = f"{len(rolled)} sets of steps rolled out, the one with the least error on their prompts kept"
        return replace(found.plan, provenance={**found.plan.provenance, "searched": tried})

    def fit(self, rule: Schedule, source: Source | None = None) -> RolledPlan:
        """Roll the prompts from computed step to computed step, fitting the rows of each segment on the way.

        Args:
            rule: says which steps compute.
            source: a rollout with the same outputs up to some step; these are replayed.
        """
        job, total = self.job, len(self.kernel.grid)
        words = f"rollout on {len(job.seeded)} prompts, ridge {self.ridge:g}, {self.teacher}"
        runs = job.setting.runs
        made = {"forecaster": words, "steps": runs.identity["steps"], **runs.origin}
        draft = Draft(self.kernel, rule, job, {**made, "schedule": repr(rule)})
        branches = len(job.mixing)
        moments = Moments.none(branches, job.setting.references.matrix, len(job.seeded))
        weight = BRANCH_WEIGHT if branches > 1 else 0.0
        gains = {"ridge": self.ridge, "branch_weight": weight, "feedback_gain": 1.0}
        rows = JointRows(moments, job.mixing, draft.steps, total, **gains, handovers=job.handovers)
        depends = {"kernel": fingerprint(encode_kernel(self.kernel)), "names": json.dumps(job.names)}
        depends["start"] = str(draft.may_weigh_start)
        roll, path, passes, with_start = secrets.token_hex(8), [], 0, draft.may_weigh_start
        for segment, (step, end) in enumerate(itertools.pairwise((*draft.computed, total))):
            newest = [b for b in range(branches) if step in draft.steps[b]]
            path.append((step, tuple(job.names[b] for b in newest if job.names)))
            task = Advance(job.setting, job.names, draft.plan(rows), tuple(path), roll, source, with_start)
            found = [rows.rows, *rows.cross.values(), *([] if rows.start is None else [rows.start])]
            more = {**depends, "rows": fingerprint(found), "path": json.dumps(path)}
            shares = [Share.decode(share) for share in job.on_all(f"moments-{segment:03d}", task, more)]
            if source is None or step > source.until:
                passes += sum(int(share.calls[0]) for share in shares)
            indices = [total * b + step for b in newest]
            begun = [not segment and len(share.among) > len(indices) for share in shares]
            if all(begun):
                rows.start, indices = np.zeros(total), [total * branches, *indices]
            else:
                shares = [share.without_first() if one else share for one, share in zip(begun, shares, strict=True)]
            with_start = rows.start is not None
            moments.grow(shares, indices)
            moments.weigh(rows.forecast, step)
            rows.fit(step, end)
        return RolledPlan(draft.plan(rows), roll, passes, moments.errors(rows.forecast, total))


@dataclass(frozen=True)
class Advance(Task):
    """Bring a student to the last step of ``path`` under ``plan``; the result is its :class:`Share`.

    A worker that does not hold the student, because it replaces one that was lost, begins it again: rows before the
    last step do not change from segment to segment, so one run under this plan gives the same features.

    Args:
        setting: of the job.
        names: of the branches, none where they share their rows.
        plan: the rows fitted so far.
        path: each computed step so far, with the names of the branches that compute there.
        roll: token of the rollout.
        source: of its first outputs.
        with_start: whether the first sample comes before the features, if the network receives it.
    """

    setting: StudentSetting
    names: tuple[str, ...]
    plan: Plan
    path: tuple[tuple[int, tuple[str, ...]], ...]
    roll: str
    source: Source | None
    with_start: bool = False

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One student, one segment: known outputs are replayed."""
        prompt, seed = unit.payload
        student = self.setting.rolled(worker, unit, self.names, self.roll, self.source)
        pipe, options = self.setting.runs.on(worker)
        call, last = self.setting.runs.call(options), self.path[-1][0]
        found = run_plan(pipe, self.plan, prompt, seed, call, outputs=student.seen, stop_after=last + 1)
        first, features = found.trajectory.first_step, []
        if self.with_start and found.start is not None and (self.names or found.carries_start):
            features.append(found.start)
        begins = len(self.path) == 1 and len(features)
        for step, names in self.path:
            outputs = [flatten(student.seen[name, step + first])[0].reshape(-1) for name in names]
            features += outputs or [found.trajectory.outputs[step]]
        student.features = features
        calls = sum(step == last + first for _, step in student.seen)
        return Share.of(student, max(1, len(self.path[-1][1])) + begins, calls).encode()
