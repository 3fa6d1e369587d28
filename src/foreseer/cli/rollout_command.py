"""``foreseer rollout``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foreseer.calibration.frontier import branches_of
from foreseer.checks import one_target
from foreseer.cli.common import (
    Device,
    Dtype,
    ForwardPasses,
    Nfe,
    Seed,
    check_budget,
    file_to_write,
    open_model,
    print_line,
)
from foreseer.cli.pipeline_options import takes_call_options
from foreseer.cli.workers import GpusPerWorker, RayAddress, Workers, chosen_place, resumable
from foreseer.kernel import Kernel
from foreseer.methods.learned import joint_schedule


@takes_call_options
def rollout(
    model: Annotated[str, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")],
    kernel: Annotated[Path, typer.Argument(help="A kernel file of this model, recorded on the grid of the plan.")],
    nfe: Nfe = None,
    forward_passes: ForwardPasses = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file with one prompt per line.")] = None,
    teacher_steps: Annotated[int | None, typer.Option(min=2, help="Steps of a finer run to follow.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Number of prompts to use; a dozen or more.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", callback=file_to_write, help="The plan to write.")] = Path(
        "rollout.plan.safetensors"
    ),
    dtype: Dtype = None,
    device: Device = None,
    workers: Workers = None,
    ray: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    *,
    call: dict[str, Any],
) -> None:
    """Fit a plan's rows on the trajectories that the plan itself produces; resumes after an interruption."""
    place = chosen_place(workers, ray, gpus_per_worker)
    loaded = Kernel.load(kernel)
    one_target(typer.BadParameter, {"--nfe": nfe, "--forward-passes": forward_passes}, required=True)
    if forward_passes is not None:
        joint_schedule(loaded, forward_passes)  # refuses a kernel without branches
        check_budget(forward_passes, branches_of(loaded) * len(loaded.grid), "--forward-passes", "forward passes")
    if nfe is not None:
        check_budget(nfe, len(loaded.grid), "--nfe")
    pipe, texts, options = open_model(model, prompts, call, dtype, device, load=place is None)
    from foreseer.calibration.rollout import rollout as run

    options.pop("num_inference_steps", None)
    with resumable("Rolling out", out) as (partial, progress):
        plan = run(
            pipe,
            loaded,
            texts[:count],
            nfe=nfe,
            forward_passes=forward_passes,
            teacher_steps=teacher_steps,
            seed=seed,
            checkpoint=partial,
            workers=place,
            progress=lambda done, total: progress(done, total, ""),
            **options,
        )
        plan.save(out)
    used = len(texts[:count])
    plural = "s" if used > 1 else ""
    print_line(f"wrote {out}: computes {plan.nfe} of {len(plan.grid)} steps, fitted on {used} prompt{plural}")
