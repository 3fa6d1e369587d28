"""``foreseer calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foreseer.cli.common import (
    Device,
    Dtype,
    Seed,
    SiteOption,
    file_to_write,
    open_model,
    print_line,
)
from foreseer.cli.pipeline_options import takes_call_options
from foreseer.cli.workers import GpusPerWorker, RayAddress, Workers, chosen_place, resumable


@takes_call_options
def calibrate(
    model: Annotated[str, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")],
    prompts: Annotated[Path | None, typer.Option(help="A text file with one prompt per line.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of the runs to record.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Number of prompts to use, from the first.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", callback=file_to_write, help="The kernel file to write.")] = Path(
        "model.kernel.safetensors"
    ),
    site: SiteOption = "output",
    dtype: Dtype = None,
    device: Device = None,
    workers: Workers = None,
    ray: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    *,
    call: dict[str, Any],
) -> None:
    """Record second moments of a pipeline's outputs over a few prompts; resumes after an interruption."""
    place = chosen_place(workers, ray, gpus_per_worker)
    pipe, texts, options = open_model(model, prompts, call, dtype, device, load=place is None)
    from foreseer.calibration.calibrate import calibrate as run

    run_steps = steps or int(options.get("num_inference_steps", 50))
    options.pop("num_inference_steps", None)
    with resumable("Recording", out) as (partial, progress):
        kernel = run(
            pipe,
            texts[:count],
            num_inference_steps=run_steps,
            seed=seed,
            site=site or "output",
            checkpoint=partial,
            workers=place,
            progress=lambda done, total: progress(done, total, ""),
            **options,
        )
        kernel.save(out)
    plural = "s" if kernel.prompts != 1 else ""
    print_line(f"wrote {out}: {kernel.prompts} prompt{plural}, {len(kernel.grid)} steps")
