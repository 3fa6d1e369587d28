"""Refinement: all rows of a plan fitted together for the final sample, by forward passes alone."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from foreseer.attach.network.containers import flatten
from foreseer.calibration.final_error import FinalError, Reference, run_references
from foreseer.calibration.gauss_newton import Descent, ErrorMoments, iterate
from foreseer.calibration.identity import fingerprint, identity_of
from foreseer.calibration.jobs import Work, check_prompts, check_ready, check_teacher
from foreseer.calibration.record import Trajectory
from foreseer.calibration.refine_checkpoint import RefineCheckpoint, RefineState
from foreseer.calibration.replay import DivergedError, PlannedRun, find_call, run_plan
from foreseer.calibration.row_directions import row_directions
from foreseer.calibration.sampler import SamplerError, sampler_matrix
from foreseer.checks import check_count, check_kind
from foreseer.errors import CalibrationError
from foreseer.methods.validate import summarise
from foreseer.plan import Plan
from foreseer.plan.file import digest_of

TRIES = 5  # dampings per iteration
LEAST_DIFFERENCE = 1e-3  # of the final sample's size; more where outputs are rounded more coarsely


def refine(
    pipe: Any,
    plan: Plan,
    prompts: Sequence[Any],
    *,
    held_out: int | Sequence[Any] | None = None,
    teacher_steps: int | None = None,
    iterations: int = 4,
    max_passes: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Plan:
    r"""Fit all rows of a plan together, for the least error of the final sample (Gauss-Newton, damped).

    A rollout fits one segment after another; here $\sum_p |x_T(W) - x^*_T|^2 / |x^*_T|^2$ over prompts p is lessened
    over all rows W at once. Derivatives are differences of runs in which one segment's rows are changed a little: no
    gradient passes through the network, which may be offloaded, quantised or compiled. Outputs before the changed
    segment are replayed. With K computed steps one iteration costs K (K + 1) (K - 1) / 6 + K forward passes per fitted
    prompt and branch of guidance, and K per held-out prompt for each damping that is tried. Any plan at the output site
    can be refined, whatever made its rows, under any scheduler whose runs a seed repeats.

    Args:
        pipe: a diffusers pipeline, not attached, with the scheduler that the plan is for.
        plan: output site; where it has no rows per branch of guidance and guidance calls the network once per branch,
            each branch gets its own.
        prompts: a handful; those held out among them.
        held_out: prompts that decide whether a step is kept and when to stop, and that no row is fitted on: the number
            of the last of ``prompts`` to take (by default a quarter of them, at least one), or a separate list.
        teacher_steps: aim at the final sample of a finer run with this many steps, from the same initial noise.
        iterations: at most.
        max_passes: forward passes to spend at most, those of the references included; an iteration that does not fit is
            not begun.
        checkpoint: a folder that keeps references, moments and the plan so far: interrupted, the same call resumes
            there. It may be removed afterwards.
        seed: of the first prompt's initial noise; each prompt has the next, held-out prompts last.
        progress: called with (forward passes done, estimate of all).
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Returns:
        The plan with refined rows. Its provenance has "refined" (what was done and why it stopped) and
        "expected_error": relative, of the final sample, root mean square over the held-out prompts.

    Raises:
        CalibrationError: too few prompts, a plan of another site, runs that do not follow the plan from beginning to
            end, or a checkpoint that cannot be read.
    """
    check_kind("plan", plan, Plan, CalibrationError)
    check_count("iterations", iterations, CalibrationError, least=1)
    if max_passes is not None:
        check_count("max_passes", max_passes, CalibrationError, least=1)
    check_teacher(teacher_steps, len(plan.grid))
    if plan.site != "output":
        raise CalibrationError(f"Refinement is for the output site; this plan takes features at {plan.site!r}.")
    prompts, seed, folder = check_ready(pipe, prompts, seed, checkpoint)
    fitted, judges = split_prompts(prompts, held_out, seed)
    latent = {**options, "output_type": "latent"}
    asked = str(options.get("num_inference_steps", plan.provenance.get("steps", "")))
    call, first = find_call(pipe, prompts[0], plan.grid, latent, asked)
    steps = call["num_inference_steps"]
    finer = {**call, "num_inference_steps": check_teacher(teacher_steps, steps) or steps}
    start = run_plan(pipe, plan, prompts[0], seed, call)
    plan = _with_branch_rows(plan, start)
    work = Work(progress, 0)
    count = len(start.branches)
    per_iteration = _passes(plan, count, len(fitted), len(judges))
    references_of = int(finer["num_inference_steps"]) * count
    work.total = references_of * (len(fitted) + len(judges)) + iterations * per_iteration
    work.did(start.forward_passes)
    references = run_references(pipe, [*fitted, *judges], finer, folder=folder, work=work, passes=references_of)
    words = identity_of(pipe, [prompt for _, prompt in (*fitted, *judges)], len(plan.grid), seed, finer)
    words |= {"plan": digest_of(plan), "fitted": fingerprint(fitted), "held_out": fingerprint(judges)}
    refinement = _Refinement(
        FinalError(pipe, call, work),
        references[: len(fitted)],
        references[len(fitted) :],
        _effects(first, len(plan.grid)),
        _difference(start),
        RefineCheckpoint(folder, json.dumps(words, sort_keys=True)),
    )
    state = refinement.descend(plan, iterations, lambda: max_passes is None or work.done + per_iteration <= max_passes)
    about = f"{len(fitted)} prompts, {len(judges)} held out, teacher {teacher_steps or 'same'}"
    refined = refinement.described(state, about)
    work.total = work.done
    work.did(0)
    return refined


@dataclass(frozen=True, eq=False)
class _Refinement:
    """Iterations of one refinement; everything that outlives a prompt is in its state.

    Attributes:
        final: measures plans.
        fitted: the prompts that rows are fitted on.
        judges: the prompts that are held out.
        effects: of outputs on samples, shape (T + 1, T).
        difference: relative size of a finite difference.
        checkpoint: where states are kept.
    """

    final: FinalError
    fitted: Sequence[Reference]
    judges: Sequence[Reference]
    effects: np.ndarray
    difference: float
    checkpoint: RefineCheckpoint

    def descend(self, plan: Plan, iterations: int, affordable: Callable[[], bool]) -> RefineState:
        """Iterate until held-out prompts, the number of iterations or the budget end it."""
        state = self.checkpoint.load(plan)
        if state is None:
            errors = self.final.errors(plan, self.judges)
            state = RefineState(plan, Descent(_mean_square(errors)), _root(errors))
        while not state.descent.stopped:
            if state.descent.iterations >= iterations:
                return state.stopped(f"{iterations} iterations done")
            if state.moments is None and not affordable():
                return state.stopped("another iteration would exceed max_passes")
            state = self._iteration(state)
            self.checkpoint.save(state)
        return state

    def _iteration(self, state: RefineState) -> RefineState:
        if state.moments is None:
            _, grams, _ = self.final.errors_and_grams(state.plan, self.judges)
            state = replace(state, grams=grams)
        directions = row_directions(state.plan, state.grams, self.effects, self.difference**2)
        moments = state.moments if state.moments is not None else ErrorMoments.none(directions.size)
        for reference in self.fitted[moments.samples :]:
            moments += self.final.linearise(directions, reference, self.difference)
            state = replace(state, moments=moments)
            self.checkpoint.save(state)

        def held_out_error(step: np.ndarray) -> float:
            try:
                return _mean_square(self.final.errors(directions.change(step), self.judges))
            except DivergedError:
                return math.inf

        descent, step = iterate(state.descent, moments, held_out_error, TRIES)
        plan = directions.change(step) if step is not None else state.plan
        return replace(state, plan=plan, descent=descent, moments=None, grams={})

    def described(self, state: RefineState, about: str) -> Plan:
        """The refined plan, with how it came about in its provenance."""
        expected = summarise(self.final.errors(state.plan, self.judges))
        refined = (
            f"{state.descent.iterations} iterations on {about}; held-out error {state.before:.4f} before, "
            f"{expected.mean:.4f} after; stopped: {state.descent.stopped}"
        )
        words = {**state.plan.provenance, "refined": refined, "expected_error": str(expected)}
        return replace(state.plan, provenance=words)


def split_prompts(
    prompts: Sequence[Any], held_out: int | Sequence[Any] | None, seed: int
) -> tuple[list[tuple[int, Any]], list[tuple[int, Any]]]:
    """Seeds and prompts to fit on, and those held out, which have the later seeds.

    Raises:
        CalibrationError: one of the two would be empty.

    >>> split_prompts(["a", "b", "c"], 1, seed=5)
    ([(5, 'a'), (6, 'b')], [(7, 'c')])
    """
    if held_out is None:
        held_out = max(1, len(prompts) // 4)
    if not isinstance(held_out, Sequence):
        check_count("held_out", held_out, CalibrationError, least=1)
        if held_out >= len(prompts):
            raise CalibrationError(
                f"{held_out} of {len(prompts)} prompts are held out, and none is left to fit on: give more prompts."
            )
        held_out, prompts = prompts[len(prompts) - held_out :], prompts[: len(prompts) - held_out]
    held_out = check_prompts(held_out, "held_out", texts=isinstance(prompts[0], str))
    seeded = list(enumerate([*prompts, *held_out], seed))
    return seeded[: len(prompts)], seeded[len(prompts) :]


def _with_branch_rows(plan: Plan, found: PlannedRun) -> Plan:
    """Return ``plan`` with a copy of its rows per branch of the run, where it has none yet."""
    if plan.branch_rows or len(found.branches) < 2:
        return plan
    return replace(plan, branch_rows=dict.fromkeys(found.branches, plan.rows))


def _passes(plan: Plan, branches: int, fitted: int, judges: int) -> int:
    """Return the most forward passes that one iteration takes."""
    grams = dict.fromkeys(plan.branch_rows or ("",), np.eye(len(plan.grid)))
    starts = row_directions(plan, grams, np.ones((len(plan.grid) + 1, len(plan.grid))), 0.0).starts
    after = [sum(step > start for step in plan.computed_steps) for start in starts]
    return branches * (fitted * (sum(after) + plan.nfe) + judges * plan.nfe * (1 + TRIES))


def _effects(first: Trajectory, steps: int) -> np.ndarray:
    """Effects of outputs on samples; equal ones where the scheduler is not linear."""
    try:
        return sampler_matrix(first.scheduler, first_step=first.first_step)[:, 1:]
    except SamplerError:
        return np.ones((steps + 1, steps))


def _difference(found: PlannedRun) -> float:
    """Return the relative size of finite differences: the root of the outputs' rounding, or the least."""
    tensors = [tensor for output in found.outputs.values() for tensor in flatten(output)]
    return max(LEAST_DIFFERENCE, *(torch.finfo(tensor.dtype).eps ** 0.5 for tensor in tensors))


def _mean_square(errors: np.ndarray) -> float:
    return float(np.mean(errors**2))


def _root(errors: np.ndarray) -> float:
    return _mean_square(errors) ** 0.5
