"""``foreseer rollout``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foreseer.calibration.frontier import branches_of
from foreseer.checks import one_target
from foreseer.cli.common import (
    ForwardPasses,
    Nfe,
    Seed,
    check_budget,
    out_file,
    plural,
    print_line,
)
from foreseer.cli.pipeline_options import ModelName, Prompts, Setup, runs_pipeline
from foreseer.cli.workers import resumable
from foreseer.kernel import Kernel
from foreseer.methods.learned import joint_schedule


@runs_pipeline
def rollout(
    model: ModelName,
    kernel: Annotated[Path, typer.Argument(help="A kernel file of this model, recorded on the grid of the plan.")],
    nfe: Nfe = None,
    forward_passes: ForwardPasses = None,
    prompts: Prompts = None,
    teacher_steps: Annotated[int | None, typer.Option(min=2, help="Steps of a finer run to follow.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Number of prompts to use; a dozen or more.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, out_file("The plan to write.")] = Path("rollout.plan.safetensors"),
    *,
    setup: Setup,
) -> None:
    """Fit a plan's rows on the trajectories that the plan itself produces; resumes after an interruption."""
    loaded = Kernel.load(kernel)
    one_target(typer.BadParameter, {"--nfe": nfe, "--forward-passes": forward_passes}, required=True)
    if forward_passes is not None:
        joint_schedule(loaded, forward_passes)  # refuses a kernel without branches
        check_budget(forward_passes, branches_of(loaded) * len(loaded.grid), "--forward-passes", "forward passes")
    if nfe is not None:
        check_budget(nfe, len(loaded.grid), "--nfe")
    pipe, texts, options, _ = setup.open(model, prompts)
    texts = texts[:count]
    from foreseer.calibration.rollout import rollout as run

    with resumable("Rolling out", out) as (partial, progress):
        plan = run(
            pipe,
            loaded,
            texts,
            nfe=nfe,
            forward_passes=forward_passes,
            teacher_steps=teacher_steps,
            seed=seed,
            checkpoint=partial,
            workers=setup.place,
            progress=lambda done, total: progress(done, total, ""),
            **options,
        )
        plan.save(out)
    print_line(f"wrote {out}: computes {plan.nfe} of {len(plan.grid)} steps, fitted on {plural(len(texts), 'prompt')}")
