"""Least errors that rows can reach on computed steps: scalars, and matrices over channels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.calibration.job_checks import check_ready, split_prompts
from foreseer.calibration.jobs import Work
from foreseer.calibration.mix_channels import channel_axis_of
from foreseer.calibration.mixing_moments import MixingMoments
from foreseer.calibration.span_moments import MeasureSpan, Span, SpanMoments, project
from foreseer.calibration.students import MeasureFinal, StudentJob
from foreseer.checks import check_kind
from foreseer.errors import CalibrationError
from foreseer.methods.validate import ExpectedError, summarise
from foreseer.plan import Plan
from foreseer.plan.file import digest_of
from foreseer.plan.mixing import check_axis
from foreseer.scale import Place, model_of, place_of


@dataclass(frozen=True, eq=False)
class Ceiling:
    """Least errors on held-out prompts, open loop: all features are those of the reference run.

    Attributes:
        step_errors: relative error of each step's output, root mean square over prompts, shape (T,); 0 where all
            branches compute.
        carried: relative error of the final sample with these outputs, through the sampler matrix.
        final: the same, with what the skipped outputs add to the final sample projected as a whole, since later rows
            can correct what earlier ones leave.
    """

    step_errors: Float64[np.ndarray, " T"] = field(repr=False)
    carried: ExpectedError
    final: ExpectedError


@dataclass(frozen=True, eq=False)
class Ceilings:
    """Ceilings on one set of computed steps, and where plans stand.

    Attributes:
        scalar: one weight per computed feature and skipped step.
        mixing: one C x C matrix per computed feature and skipped step, where it helps on held-out prompts.
        measured: error of the final sample of each plan's runs on the held-out prompts.
        skipped_steps: the steps that at least one branch skips.
        mixed_steps: those of them at which matrices help on held-out prompts.
        held_out: number of held-out prompts.
    """

    scalar: Ceiling
    mixing: Ceiling
    measured: tuple[ExpectedError, ...]
    skipped_steps: tuple[int, ...]
    mixed_steps: tuple[int, ...]
    held_out: int


def ceilings(
    pipe: Any,
    plans: Sequence[Plan],
    prompts: Sequence[Any],
    *,
    held_out: int | Sequence[Any] | None = None,
    channel_axis: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    workers: int | Place | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Ceilings:
    r"""Measure the least error of any rows on the first plan's computed steps, and the error of each plan.

    On reference runs each skipped output is projected on the features computed before it and the run's first sample:
    $\min \sum |F_i - \sum_j w_{ij} F_j|^2$ for scalars w, and then with a matrix over channels per feature. Both are
    fitted on the fitted prompts, held-out prompts choose the ridge, and errors are those of the held-out prompts. This
    is open loop. A run under a plan has other features, whose rows can correct what earlier rows left. The cost is one
    reference run and one forward pass per prompt, and a run of each plan per held-out prompt.

    Args:
        pipe: a diffusers pipeline, not attached.
        plans: output site, all on one grid; the first has the computed steps.
        prompts: those held out among them.
        held_out: see :func:`foreseer.refine`.
        channel_axis: see :func:`foreseer.mix_channels`.
        checkpoint: a folder that keeps reference runs and moments; it may be removed afterwards.
        seed: of the first prompt's initial noise; each prompt has the next, held-out prompts last.
        workers: where prompts are run, as in :func:`foreseer.rollout`.
        progress: called with (steps of runs done, of all).
        options: keyword arguments of the pipeline's call (height, guidance, ...).

    Raises:
        CalibrationError: too few prompts, plans of another site or of different grids, a first plan that computes every
            step, outputs of another size than the sample, or runs that do not follow a plan from beginning to end.
        SamplerError: the scheduler is stochastic, or not linear.
    """
    _check_plans(plans)
    if channel_axis is not None:
        channel_axis = check_axis(channel_axis, CalibrationError)
    prompts, seed, folder = check_ready(pipe, prompts, seed, checkpoint, named=True)
    fitted, judges = split_prompts(prompts, held_out, seed)
    seeded, passes = [*fitted, *judges], sum(plan.nfe for plan in plans)
    recorded = next((plan.provenance["steps"] for plan in plans if "steps" in plan.provenance), "")
    with place_of(workers).pool() as pool:
        job = StudentJob.begin(
            pool,
            model_of(pipe),
            plans[0].grid,
            seeded,
            options,
            recorded=str(options.get("num_inference_steps", recorded)),
            branches=next((tuple(plan.branch_rows) for plan in plans if plan.branch_rows), ()),
            teacher_steps=None,
            checkpoint=folder,
            work=Work(progress, len(seeded) + passes * len(judges)),
        )
        axis = channel_axis_of(job.setting.shape) if channel_axis is None else channel_axis
        more = {"plan": " ".join(map(digest_of, plans))}
        finals = job.on_all(
            "final", MeasureFinal(job.setting, job.names, tuple(plans)), more, passes, first=len(fitted)
        )
        span = Span.of(plans[0], job)
        results = job.on_all("span", MeasureSpan(job.setting, job.names, span, axis), {**more, "axis": str(axis)})
    moments = [SpanMoments.decode(result, span, job.setting.shape[axis]) for result in results]
    errors = np.stack([np.frombuffer(result) for result in finals], axis=1)
    effects = job.setting.references.matrix[-1, 1:]
    return _judged(span, moments, len(fitted), effects, tuple(summarise(each) for each in errors))


def _check_plans(plans: Sequence[Plan]) -> None:
    if isinstance(plans, Plan) or not isinstance(plans, Sequence):
        raise CalibrationError(f"plans is a {type(plans).__name__}; expected a list of plans.")
    if not plans:
        raise CalibrationError("Give at least one plan: the ceilings are those of its computed steps.")
    for plan in plans:
        check_kind("plans", plan, Plan, CalibrationError)
        if plan.site != "output":
            raise CalibrationError(f"Ceilings are measured at the output site; this plan has {plan.site!r}.")
        if not plan.grid.matches(plans[0].grid):
            raise CalibrationError("The plans are on different grids: give plans for the same noise levels.")
    if plans[0].saves_nothing:
        raise CalibrationError("The first plan computes every step: no output is skipped.")


def _judged(
    span: Span, prompts: Sequence[SpanMoments], fitted: int, effects: np.ndarray, measured: tuple[ExpectedError, ...]
) -> Ceilings:
    """Fit on the first ``fitted`` prompts, measure on the others."""
    judges, last, every = prompts[fitted:], len(span.skipped), range(len(span.features))
    step_errors, carried = np.zeros((2, effects.size)), np.zeros((2, *prompts[0].wanted[:, 0].shape))
    mixed = []
    for target, (step, usable) in enumerate(zip(span.skipped, span.usable, strict=True)):
        fits = project([moments.of(target, usable) for moments in prompts], fitted)
        for kind, matrices in enumerate(fits):
            shares = [_share(moments.of(target, usable), matrices, moments.squares[target]) for moments in judges]
            step_errors[kind, step] = np.sqrt(np.mean(shares))
            carried[kind, prompts[0].rows(usable)] += effects[step] * matrices
        if fits[1] is not fits[0]:
            mixed.append(step)

    def final(matrices: np.ndarray, features: Sequence[int]) -> ExpectedError:
        shares = [_share(moments.of(last, features), matrices, moments.final_square) for moments in judges]
        return summarise(np.sqrt(shares))

    whole = project([moments.of(last, span.any_use) for moments in prompts], fitted)
    scalar, mixing = (
        Ceiling(step_errors[kind], final(carried[kind], every), final(whole[kind], span.any_use)) for kind in range(2)
    )
    return Ceilings(scalar, mixing, measured, span.skipped, tuple(mixed), len(judges))


def _share(moments: MixingMoments, matrices: np.ndarray, square: float) -> float:
    """Square error under ``matrices`` as a share of ``square``."""
    return max(moments.left(matrices), 0.0) / square if square > 0 else 0.0
