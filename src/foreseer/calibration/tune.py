"""`tune`: everything that can be learned of a model, in one call and one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from foreseer import __version__
from foreseer.calibration.calibrate import SENSITIVITY_PROMPTS, calibrate
from foreseer.calibration.draw_row import draw_row
from foreseer.calibration.job_checks import check_prompts, check_ready, default_steps, split_prompts, takes_texts
from foreseer.calibration.mix_channels import UnknownAxisError, mix_channels
from foreseer.calibration.refine import TRIES, refine
from foreseer.calibration.rollout import rollout
from foreseer.calibration.sensitivity import MEASURING
from foreseer.checks import check_count, check_flags, check_kind
from foreseer.errors import CalibrationError
from foreseer.methods.learned import SENSITIVITY_SHARES
from foreseer.methods.profile import Profile
from foreseer.plan import Plan
from foreseer.scale import Place, place_of

BUDGETS = (14, 9, 7)
Progress = Callable[[str, int, int], None]


def tune(
    pipe: Any,
    prompts: str | Sequence[Any],
    *,
    budgets: Sequence[int] | None = None,
    num_inference_steps: int | None = None,
    seed: int = 0,
    iterations: int = 2,
    mix: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    workers: int | Place | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Profile:
    """Calibrate, search, roll out, refine and mix channels, for a few budgets.

    Args:
        pipe: a diffusers pipeline, not attached.
        prompts: a dozen or more, of the kind that you will use. The last quarter is held out: nothing is fitted on it.
        budgets: numbers of computed steps that get a refined plan; kernel rows serve all others. By default those of
            14, 9 and 7 that are below ``num_inference_steps``.
        num_inference_steps: steps of the reference runs, by default 50, or those of an ``fs.Sampler``.
        seed: of the first prompt's noise; prompt i has seed + i.
        iterations: Gauss-Newton iterations per budget; 0 leaves refinement out.
        mix: whether to fit rows that mix channels; they are kept where they help on held-out prompts.
        checkpoint: folder to resume from after an interruption.
        workers: where prompts are run, as in :func:`foreseer.rollout`; they are started once for all stages.
        progress: receives the stage's name, the amount done and the amount in all.
        options: for the pipeline's call (guidance_scale, height, ...).

    Returns:
        The profile; ``fs.accelerate(pipe, profile, quality="high")`` uses it.

    Raises:
        CalibrationError: the pipeline cannot be calibrated, there are fewer than two prompts, or a budget does not fit
            the steps.
    """
    prompts = check_prompts([prompts] if isinstance(prompts, str) else prompts, texts=takes_texts(pipe))
    if len(prompts) < 2:
        raise CalibrationError("tune needs two prompts or more: one is held out. Use fs.calibrate for a single one.")
    num_inference_steps = default_steps(pipe) if num_inference_steps is None else num_inference_steps
    check_count("num_inference_steps", num_inference_steps, CalibrationError, least=2)
    check_count("iterations", iterations, CalibrationError)
    check_flags(CalibrationError, mix=mix)
    if budgets is not None:
        check_kind("budgets", budgets, Sequence, CalibrationError)
    for nfe in budgets or ():
        check_count("a budget", nfe, CalibrationError, least=1, most=num_inference_steps)
    prompts, seed, folder = check_ready(pipe, prompts, seed, checkpoint, named=True)
    with place_of(workers).kept() as place:
        stages = _Stages(pipe, prompts, seed, folder, place, progress, options)
        kernel = stages.run("calibrate", calibrate, stages.fitted, num_inference_steps=num_inference_steps)
        plans: list[Plan] = []
        for nfe in _in_order(budgets, num_inference_steps):
            plan = stages.run(f"roll out {nfe}", rollout, kernel, stages.fitted, nfe=nfe)
            if iterations:
                plan = stages.run(f"refine {nfe}", refine, plan, prompts, iterations=iterations)
            if mix:
                plan = _mixed(stages, plan, prompts, nfe)
            plans.append(plan)
        thumbnail, reason = stages.row(plans) if plans else (None, "no budget has a plan")
    provenance = {**kernel.provenance, "foreseer": __version__, "tuned_on": f"{len(prompts)} prompts, seed {seed}"}
    if reason:
        provenance["thumbnail"] = f"none: {reason}"
    return Profile(kernel, tuple(plans), provenance, thumbnail)


def _mixed(stages: _Stages, plan: Plan, prompts: list[Any], nfe: int) -> Plan:
    """The plan with mixed channels; itself where the loop's samples have none that are known."""
    try:
        return stages.run(f"mix channels {nfe}", mix_channels, plan, prompts)
    except UnknownAxisError as error:
        return replace(plan, provenance={**plan.provenance, "mixing": f"none: {error}"})


def stage_costs(
    prompts: int, steps: int, budgets: Sequence[int] | None, *, iterations: int, mix: bool
) -> dict[str, int]:
    """Estimate the forward passes of each stage of :func:`tune` without guidance, by name and in order.

    Args:
        prompts: number of prompts, held-out ones included.
        steps: steps of the reference runs.
        budgets: as of :func:`tune`.
        iterations: as of :func:`tune`.
        mix: as of :func:`tune`.
    """
    held_out = max(1, prompts // 4)
    fitted = prompts - held_out
    costs = {"calibrate": fitted * steps + round(min(fitted, SENSITIVITY_PROMPTS) * MEASURING * steps)}
    chosen = _in_order(budgets, steps)
    for index, nfe in enumerate(chosen):
        reference = 0 if index else steps  # the first budget's references serve all
        costs[f"roll out {nfe}"] = fitted * (reference + len(SENSITIVITY_SHARES) * nfe)
        if iterations:
            per_prompt = nfe * (nfe + 1) * (nfe - 1) // 6 + nfe
            fits = fitted * per_prompt + held_out * nfe * (1 + TRIES)
            costs[f"refine {nfe}"] = prompts * reference + iterations * fits
        if mix:
            costs[f"mix channels {nfe}"] = held_out * reference + (prompts + 2 * held_out) * nfe
    if chosen:
        costs["draw"] = steps + sum(chosen)
    return costs


def _in_order(budgets: Sequence[int] | None, steps: int) -> list[int]:
    """The budgets, each once, descending; by default those of ``BUDGETS`` that are below ``steps``."""
    return sorted({nfe for nfe in BUDGETS if nfe < steps} if budgets is None else set(budgets), reverse=True)


@dataclass(frozen=True)
class _Stages:
    """The stages of one tuning: what all of them are called with, and the prompts that may be fitted on."""

    pipe: Any
    prompts: Sequence[Any]
    seed: int
    folder: Path | None
    place: Place
    progress: Progress | None
    options: Mapping[str, Any]

    @property
    def fitted(self) -> list[Any]:
        """The prompts that refinement and mixing do not hold out; they keep their seeds, being the first ones."""
        return [prompt for _, prompt in split_prompts(self.prompts, None, self.seed)[0]]

    def row(self, plans: Sequence[Plan]) -> tuple[bytes | None, str]:
        """Draw the last prompt, which no fit has seen, under each plan."""
        return self.run("draw", draw_row, plans, self.prompts[-1], seed=self.seed + len(self.prompts) - 1)

    def run(self, stage: str, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Call one stage with its own checkpoint and progress."""
        own = {
            "seed": self.seed,
            "workers": self.place,
            "checkpoint": None if self.folder is None else self.folder / stage.replace(" ", "-"),
            "progress": None if self.progress is None else partial(self.progress, stage),
        }
        return function(self.pipe, *arguments, **{**own, **more}, **self.options)
