"""`tune`: everything that can be learned of a model, in one call and one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from foreseer import __version__
from foreseer.calibration.calibrate import calibrate
from foreseer.calibration.jobs import check_ready
from foreseer.calibration.mix_channels import mix_channels
from foreseer.calibration.refine import refine
from foreseer.calibration.rollout import rollout
from foreseer.checks import check_count
from foreseer.errors import CalibrationError
from foreseer.methods.profile import Profile
from foreseer.plan import Plan

BUDGETS = (14, 9, 7)
Progress = Callable[[str, int, int], None]


def tune(
    pipe: Any,
    prompts: str | Sequence[str],
    *,
    budgets: Sequence[int] = BUDGETS,
    num_inference_steps: int = 50,
    seed: int = 0,
    iterations: int = 2,
    mix: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Profile:
    """Calibrate, search, roll out, refine and mix channels, for a few budgets.

    Args:
        pipe: a diffusers pipeline, not attached.
        prompts: a dozen or more, of the kind that you will use. The last quarter is held out: nothing is fitted on it.
        budgets: numbers of computed steps that get a refined plan; kernel rows serve all others.
        num_inference_steps: steps of the reference runs.
        seed: of the first prompt's noise; prompt i has seed + i.
        iterations: Gauss-Newton iterations per budget; 0 leaves refinement out.
        mix: whether to fit rows that mix channels; they are kept where they help on held-out prompts.
        checkpoint: folder to resume from after an interruption.
        progress: receives the stage's name, the amount done and the amount in all.
        options: for the pipeline's call (guidance_scale, height, ...).

    Returns:
        The profile; ``fs.accelerate(pipe, profile, quality="high")`` uses it.

    Raises:
        CalibrationError: the pipeline cannot be calibrated, or there are fewer than two prompts.
        ScheduleError: a budget does not fit the steps.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    check_ready(pipe, prompts)
    if len(prompts) < 2:
        raise CalibrationError("tune needs two prompts or more: one is held out. Use fs.calibrate for a single one.")
    for nfe in budgets:
        check_count("a budget", nfe, CalibrationError, least=1, most=num_inference_steps)

    def report(stage: str) -> Callable[[int, int], None] | None:
        return None if progress is None else partial(progress, stage)

    def folder(stage: str) -> str | None:
        return None if checkpoint is None else os.fspath(Path(checkpoint) / stage)

    if checkpoint is not None:
        Path(checkpoint).mkdir(parents=True, exist_ok=True)
    kernel = calibrate(
        pipe,
        prompts,
        num_inference_steps=num_inference_steps,
        seed=seed,
        checkpoint=folder("calibrate"),
        progress=report("calibrate"),
        **options,
    )
    plans: list[Plan] = []
    for nfe in sorted(set(budgets), reverse=True):
        shared = {"seed": seed, **options}
        plan = rollout(
            pipe, kernel, prompts, nfe=nfe, checkpoint=folder("rollout"), progress=report(f"roll out {nfe}"), **shared
        )
        if iterations:
            stage = f"refine-{nfe}"
            plan = refine(
                pipe,
                plan,
                prompts,
                iterations=iterations,
                checkpoint=folder(stage),
                progress=report(f"refine {nfe}"),
                **shared,
            )
        if mix:
            stage = f"mix-{nfe}"
            plan = mix_channels(
                pipe, plan, prompts, checkpoint=folder(stage), progress=report(f"mix channels {nfe}"), **shared
            )
        plans.append(plan)
    provenance = {**kernel.provenance, "foreseer": __version__, "tuned_on": f"{len(prompts)} prompts, seed {seed}"}
    return Profile(kernel, tuple(plans), provenance)
