"""``foreseer calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foreseer.cli.common import Seed, SiteOption, out_file, plural, print_line
from foreseer.cli.pipeline_options import ModelName, Prompts, Setup, runs_pipeline
from foreseer.cli.workers import resumable


@runs_pipeline
def calibrate(
    model: ModelName,
    prompts: Prompts = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of the runs to record.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Number of prompts to use, from the first.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, out_file("The kernel file to write.")] = Path("model.kernel.safetensors"),
    site: SiteOption = "output",
    *,
    setup: Setup,
) -> None:
    """Record second moments of a pipeline's outputs over a few prompts; resumes after an interruption."""
    pipe, texts, options, default_steps = setup.open(model, prompts)
    from foreseer.calibration.calibrate import calibrate as run

    with resumable("Recording", out) as (partial, progress):
        kernel = run(
            pipe,
            texts[:count],
            num_inference_steps=steps or default_steps,
            seed=seed,
            site=site or "output",
            checkpoint=partial,
            workers=setup.place,
            progress=lambda done, total: progress(done, total, ""),
            **options,
        )
        kernel.save(out)
    print_line(f"wrote {out}: {plural(kernel.prompts, 'prompt')}, {len(kernel.grid)} steps")
