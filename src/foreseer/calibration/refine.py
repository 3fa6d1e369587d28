"""Refinement: all rows of a plan fitted together for the final sample, by forward passes alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from foreseer.calibration.error_derivatives import difference_for
from foreseer.calibration.final_error import FinalSetting, Linearise, MeasurePlan, RunFinalReference
from foreseer.calibration.gauss_newton import Descent, ErrorMoments, iterate
from foreseer.calibration.identity import fingerprint
from foreseer.calibration.job_checks import check_ready, check_teacher, split_prompts
from foreseer.calibration.jobs import PromptRuns, Work, on_prompts, split_header
from foreseer.calibration.planned_run import FindPlannedRun
from foreseer.calibration.row_directions import RowDirections, row_directions
from foreseer.checks import check_count, check_kind, check_number
from foreseer.errors import CalibrationError
from foreseer.methods.validate import clearly_less, measured_error, typical_error
from foreseer.plan import Plan
from foreseer.plan.file import digest_of
from foreseer.scale import FolderStore, MemoryStore, Place, Store, Task, Unit, model_of, place_of, run_units
from foreseer.scale.model import AnyModel
from foreseer.scale.place import Pool

TRIES = 5  # dampings per iteration


def refine(
    pipe: Any,
    plan: Plan,
    prompts: Sequence[Any],
    *,
    held_out: int | Sequence[Any] | None = None,
    teacher_steps: int | None = None,
    iterations: int = 4,
    max_passes: int | None = None,
    difference: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    workers: int | Place | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Plan:
    r"""Fit all rows of a plan together, for the least error of the final sample (Gauss-Newton, damped).

    A rollout fits one segment after another; here $\sum_p \log |x_T(W) - x^*_T|^2$ over prompts p, which is what the
    mean PSNR measures, is lessened over all rows W at once: a prompt whose run leaves its reference for good does not
    decide the rows of the others. Derivatives are differences of runs in which one segment's rows are changed a
    little: no gradient passes through the network, which may be offloaded, quantised or compiled. Outputs before the
    changed segment are replayed. With K computed steps one iteration costs K (K + 1) (K - 1) / 6 + K forward passes
    per fitted prompt and branch of guidance, and K per held-out prompt for each damping that is tried. Any plan at
    the output site can be refined, whatever made its rows, under any scheduler whose runs a seed repeats. Rows of
    further tensors of the output (``plan.part_rows``) stay as they are.

    Args:
        pipe: a diffusers pipeline, not attached, with the scheduler that the plan is for.
        plan: output site; where it has no rows per branch of guidance and guidance calls the network once per branch,
            each branch gets its own.
        prompts: a handful; those held out among them.
        held_out: prompts that decide whether a step is kept and when to stop, and that no row is fitted on: the number
            of the last of ``prompts`` to take (by default a quarter of them, at least one), or a separate list. A gain
            within one standard error of their mean is not kept.
        teacher_steps: aim at the final sample of a finer run with this many steps, from the same initial noise.
        iterations: at most.
        max_passes: forward passes to spend at most, those of the references included; an iteration that does not fit is
            not begun.
        difference: relative size of finite differences, by default 0.4 times the held-out error and 0.03 at most;
            networks in 8 bits need 0.03.
        checkpoint: a folder that keeps references, moments and errors: interrupted, the same call resumes there. It may
            be removed afterwards.
        seed: of the first prompt's initial noise; each prompt has the next, held-out prompts last.
        workers: where prompts are run, as in :func:`foreseer.rollout`.
        progress: called with (forward passes done, estimate of all).
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Returns:
        The plan with refined rows. Its provenance has "refined" (what was done and why it stopped) and
        "expected_error": relative, of the final sample: geometric mean over the held-out prompts, with an allowance for
        how hard these are under the given plan.

    Raises:
        CalibrationError: too few prompts, a plan of another site, runs that do not follow the plan from beginning to
            end, or a checkpoint that cannot be read.
    """
    check_kind("plan", plan, Plan, CalibrationError)
    check_count("iterations", iterations, CalibrationError, least=1)
    if max_passes is not None:
        check_count("max_passes", max_passes, CalibrationError, least=1)
    if difference is not None:
        check_number("difference", difference, CalibrationError, least=1e-6, most=1.0)
    check_teacher(teacher_steps, len(plan.grid))
    if plan.site != "output":
        raise CalibrationError(f"Refinement is for the output site; this plan takes features at {plan.site!r}.")
    prompts, seed, folder = check_ready(pipe, prompts, seed, checkpoint, named=True)
    fitted, judges = split_prompts(prompts, held_out, seed)
    with place_of(workers).pool() as pool:
        refinement, plan = _Refinement.begin(
            pool,
            model_of(pipe),
            plan,
            (fitted, judges),
            options,
            teacher_steps=teacher_steps,
            difference=difference,
            folder=os.path.abspath(folder) if folder is not None else None,
            work=Work(progress, 0),
        )
        work, per_iteration = refinement.work, refinement.most_passes(plan)
        work.total += iterations * per_iteration
        affordable = lambda: max_passes is None or work.done + per_iteration <= max_passes  # noqa: E731
        refined = refinement.descend(plan, iterations, affordable, f"teacher {teacher_steps or 'same'}")
    work.total = work.done
    work.did(0)
    return refined


@dataclass(frozen=True, eq=False)
class _Refinement:
    """One refinement; what is done for a prompt is a unit, and sums are in the order of prompts.

    Attributes:
        pool: of workers.
        setting: what tasks share.
        fitted: the prompts that rows are fitted on.
        judges: the prompts that are held out.
        branches: number of branches of guidance in a run.
        effects: of outputs on samples, shape (T + 1, T).
        rounding: least relative size of a finite difference.
        difference: the size that is asked for, if one is.
        handovers: steps at which another network begins.
        store: where results are kept.
        work: counts forward passes.
        measured: held-out errors, and products of features by branch, of each plan measured so far.
    """

    pool: Pool
    setting: FinalSetting
    fitted: Sequence[tuple[int, Any]]
    judges: Sequence[tuple[int, Any]]
    branches: int
    effects: np.ndarray
    rounding: float
    difference: float | None
    handovers: Sequence[int]
    store: Store
    work: Work
    measured: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        pool: Pool,
        model: AnyModel,
        plan: Plan,
        prompts: tuple[list[tuple[int, Any]], list[tuple[int, Any]]],
        options: Mapping[str, Any],
        *,
        teacher_steps: int | None,
        difference: float | None,
        folder: str | None,
        work: Work,
    ) -> tuple[_Refinement, Plan]:
        """Run the references; return the refinement, and the plan with rows per branch."""
        fitted, judges = prompts
        runs = PromptRuns(model, len(plan.grid), {"output_type": "latent", **options})
        runs = runs.identified(pool, len(fitted) + len(judges))
        recorded = str(options.get("num_inference_steps", plan.provenance.get("steps", "")))
        seed, prompt = fitted[0]
        (found,) = run_units(pool, FindPlannedRun(runs, plan, recorded), [Unit("planned-run", (prompt, seed))])
        (steps, branches, passes, rounding, handovers, guidance), effects = split_header(found)
        if not plan.branch_rows and len(branches) > 1:
            plan = replace(plan, branch_rows=dict.fromkeys(branches, plan.rows))
        runs = replace(runs, steps=steps, guidance=guidance, identity={**runs.identity, "steps": str(steps)})
        setting = FinalSetting(runs, check_teacher(teacher_steps, steps) or steps, folder)
        store = FolderStore(folder) if folder is not None else MemoryStore()
        matrix = effects.reshape(len(plan.grid) + 1, -1)
        refinement = cls(
            pool, setting, fitted, judges, len(branches), matrix, rounding, difference, handovers, store, work
        )
        each = setting.teacher_steps * len(branches)
        work.total = passes + each * (len(fitted) + len(judges)) + len(branches) * len(judges) * plan.nfe
        work.did(passes)
        for index, part in enumerate(prompts):
            refinement.on_all(f"final-reference-{index}", RunFinalReference(setting), part, {}, each)
        return refinement, plan

    def on_all(
        self, kind: str, task: Task, seeded: Sequence[tuple[int, Any]], more: dict[str, str], each: int
    ) -> list[bytes]:
        """The results of some prompts, see :func:`on_prompts`."""
        identity = {**self.setting.identity, **more}
        return on_prompts(
            self.pool, task, seeded, kind=kind, identity=identity, store=self.store, work=self.work, each=each
        )

    def most_passes(self, plan: Plan) -> int:
        """Return the most forward passes that one iteration takes."""
        grams = dict.fromkeys(plan.branch_rows or ("",), np.eye(len(plan.grid)))
        directions = row_directions(plan, grams, np.ones((len(plan.grid) + 1, len(plan.grid))), 0.0, self.handovers)
        return self.passes(directions) * len(self.fitted) + self.branches * len(self.judges) * plan.nfe * TRIES

    def passes(self, directions: RowDirections) -> int:
        """Return the forward passes that derivatives take per prompt."""
        plan = directions.plan
        after = [sum(step > start for step in plan.computed_steps) for start in directions.starts]
        return self.branches * (sum(after) + plan.nfe)

    def descend(self, plan: Plan, iterations: int, affordable: Callable[[], bool], teacher: str) -> Plan:
        """Iterate until held-out prompts, the number of iterations or the budget end it."""
        errors, _ = self.measure(plan)
        before = typical_error(errors)
        descent = Descent(before**2)
        while not descent.stopped:
            if descent.iterations >= iterations:
                descent = replace(descent, stopped=f"{iterations} iterations done")
            elif not affordable():
                descent = replace(descent, stopped="another iteration would exceed max_passes")
            else:
                plan, descent = self._iteration(plan, descent)
        errors, _ = self.measure(plan)
        refined = (
            f"{descent.iterations} iterations on {len(self.fitted)} prompts, {len(self.judges)} held out, {teacher}; "
            f"typical held-out error {before:.4f} before, {descent.error**0.5:.4f} after; stopped: {descent.stopped}"
        )
        made = {"refined": refined, "expected_error": str(measured_error(errors)), **self.setting.runs.origin}
        return replace(plan, provenance={**plan.provenance, **made})

    def measure(self, plan: Plan) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Held-out errors of a plan, and mean products of its features by branch; none if a run diverges."""
        key = digest_of(plan)
        if key not in self.measured:
            before = self.work.done
            each = self.branches * plan.nfe
            results = self.on_all("measure", MeasurePlan(self.setting, plan), self.judges, {"plan": key}, each)
            rows = [np.frombuffer(result) for result in results]
            self.work.reach(before + int(sum(row[0] for row in rows)))
            errors, total, grams = np.array([row[1] for row in rows]), len(plan.grid), {}
            if np.isfinite(errors).all():
                names = tuple(plan.branch_rows) or ("",)
                mean = reduce(add, (row[2:].reshape(-1, total, total) / len(rows) for row in rows))
                grams = dict(zip(names, mean, strict=True))
            self.measured[key] = errors, grams
        return self.measured[key]

    def _iteration(self, plan: Plan, descent: Descent) -> tuple[Plan, Descent]:
        _, grams = self.measure(plan)
        directions = row_directions(plan, grams, self.effects, self.rounding**2, self.handovers)
        size, before = directions.size, self.work.done
        difference = self.difference or difference_for(descent.error**0.5, self.rounding)
        more = {"plan": digest_of(plan), "difference": repr(difference)}
        more |= {"basis": fingerprint([each for part in directions.segments for each in (part.profile, part.basis)])}
        task = Linearise(self.setting, directions, difference)
        results = self.on_all("derivatives", task, self.fitted, more, self.passes(directions))
        rows = [np.frombuffer(result) for result in results]
        self.work.reach(before + int(sum(row[0] for row in rows)))
        moments = reduce(add, (_moments(row[1:], size).relative() for row in rows), ErrorMoments.none(size))

        def held_out_error(step: np.ndarray) -> float:
            return typical_error(self.measure(directions.change(step))[0]) ** 2

        onward, step = iterate(descent, moments, held_out_error, TRIES)
        if step is None:
            return plan, onward
        changed = directions.change(step)
        if clearly_less(self.measure(changed)[0], self.measure(plan)[0]):
            return changed, onward
        reason = "held-out prompts do not tell the last step from chance"
        return plan, replace(descent, iterations=onward.iterations, stopped=reason)


def _moments(numbers: np.ndarray, size: int) -> ErrorMoments:
    curvature, gradient, square = np.split(numbers, [size**2, size**2 + size])
    return ErrorMoments(curvature.reshape(size, size), gradient, float(square[0]), 1)
