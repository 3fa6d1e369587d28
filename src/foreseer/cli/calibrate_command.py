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
    created,
    file_to_write,
    open_model,
    print_line,
    progress_bar,
)
from foreseer.cli.pipeline_options import takes_call_options


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
    *,
    call: dict[str, Any],
) -> None:
    """Record second moments of a pipeline's outputs over a few prompts; resumes after an interruption."""
    from foreseer.calibration.calibrate import calibrate as run

    pipe, texts, options = open_model(model, prompts, call, dtype, device)
    run_steps = steps or int(options.get("num_inference_steps", 50))
    options.pop("num_inference_steps", None)
    partial = created(out).with_name(f".{out.name}.partial")
    with progress_bar() as bar:
        task = bar.add_task("Recording", total=len(texts[:count]))
        kernel = run(
            pipe,
            texts[:count],
            num_inference_steps=run_steps,
            seed=seed,
            site=site or "output",
            checkpoint=partial,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            **options,
        )
    kernel.save(out)
    partial.unlink(missing_ok=True)
    plural = "s" if kernel.prompts != 1 else ""
    print_line(f"wrote {out}: {kernel.prompts} prompt{plural}, {len(kernel.grid)} steps")
