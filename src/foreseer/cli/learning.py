"""``foreseer calibrate``, ``frontier``, ``portrait`` and ``rollout``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from foreseer.cli.common import (
    Device,
    Dtype,
    Evaluations,
    Guidance,
    Height,
    Json,
    Negative,
    Nfe,
    Others,
    Picture,
    Seed,
    SiteOption,
    TrueCfg,
    Width,
    call_options,
    console,
    file_to_write,
    progress_bar,
)

if TYPE_CHECKING:
    from foreseer.calibration.frontier import FrontierPoint


def calibrate(
    model: Annotated[str, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")],
    prompts: Annotated[Path | None, typer.Option(help="A text file, one prompt a line.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of the runs to record.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Use the first so many prompts.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", callback=file_to_write, help="The kernel file to write.")] = Path(
        "model.kernel.safetensors"
    ),
    site: SiteOption = "output",
    height: Height = None,
    width: Width = None,
    guidance: Guidance = None,
    true_cfg: TrueCfg = None,
    negative: Negative = None,
    image: Picture = None,
    option: Others = None,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Record second moments of a pipeline's outputs over a few prompts; interrupted, it goes on where it was."""
    from foreseer.calibration.calibrate import calibrate as run

    given = call_options(height, width, guidance, true_cfg=true_cfg, negative=negative, image=image, others=option)
    pipe, words, options = _open(model, prompts, given, dtype, device)
    run_steps = steps or int(options.get("num_inference_steps", 50))
    options.pop("num_inference_steps", None)
    partial = out.with_name(f".{out.name}.partial")
    with progress_bar() as bar:
        task = bar.add_task("Recording", total=len(words[:count]))
        kernel = run(
            pipe,
            words[:count],
            num_inference_steps=run_steps,
            seed=seed,
            site=site or "output",
            checkpoint=partial,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            **options,
        )
    kernel.save(out)
    partial.unlink(missing_ok=True)
    console.print(
        f"wrote {out}: {kernel.prompts} prompt{'s' if kernel.prompts != 1 else ''}, {len(kernel.grid)} steps",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _open(
    model: str, prompts: Path | None, given: dict[str, Any], dtype: str | None, device: str | None
) -> tuple[Any, list[str], dict[str, Any]]:
    """A pipeline, the prompts of a file or its examples, and the options of its call."""
    from foreseer.pipelines import load_pipeline, read_prompts, split_sampling, with_pictures

    words = read_prompts(prompts) if prompts is not None else None
    pipe, sampling = load_pipeline(model, dtype, device)
    pipe.set_progress_bar_config(disable=True)
    examples, defaults = split_sampling(sampling)
    return pipe, words or examples, {**defaults, **with_pictures(pipe, given)}


def rollout(
    model: Annotated[str, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")],
    kernel: Annotated[Path, typer.Argument(help="A kernel file of this model, recorded on the grid of the plan.")],
    nfe: Nfe = None,
    evaluations: Evaluations = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file, one prompt a line.")] = None,
    teacher_steps: Annotated[int | None, typer.Option(min=2, help="Follow a finer run with so many steps.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Use the first so many prompts; 4 go a long way.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", callback=file_to_write, help="The plan to write.")] = Path(
        "rollout.plan.safetensors"
    ),
    height: Height = None,
    width: Width = None,
    guidance: Guidance = None,
    true_cfg: TrueCfg = None,
    negative: Negative = None,
    image: Picture = None,
    option: Others = None,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Fit a plan's rows on the trajectories that they perturb themselves; interrupted, it goes on where it was."""
    from foreseer.calibration.rollout import rollout as run
    from foreseer.kernel import Kernel

    loaded = Kernel.load(kernel)
    if (nfe is None) == (evaluations is None):
        raise typer.BadParameter("give one of --nfe and --evaluations.", param_hint="--nfe")
    if nfe is not None and nfe > len(loaded.grid):
        raise typer.BadParameter(f"{nfe} evaluations do not fit {len(loaded.grid)} steps.", param_hint="--nfe")
    given = call_options(height, width, guidance, true_cfg=true_cfg, negative=negative, image=image, others=option)
    pipe, words, options = _open(model, prompts, given, dtype, device)
    options.pop("num_inference_steps", None)
    partial = out.with_name(f".{out.name}.partial")
    with progress_bar() as bar:
        task = bar.add_task("Rolling out", total=None)
        plan = run(
            pipe,
            loaded,
            words[:count],
            nfe=nfe,
            evaluations=evaluations,
            teacher_steps=teacher_steps,
            seed=seed,
            checkpoint=partial,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            **options,
        )
    plan.save(out)
    shutil.rmtree(partial, ignore_errors=True)
    used = len(words[:count])
    console.print(
        f"wrote {out}: {plan.nfe} of {len(plan.grid)} steps compute, fitted on {used} prompt{'s' if used > 1 else ''}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def frontier(
    kernel: Annotated[Path, typer.Argument(help="A kernel file.")],
    most: Annotated[int | None, typer.Option(min=2, help="Largest number of evaluations.")] = None,
    evaluations: Annotated[
        bool, typer.Option("--evaluations", help="Count calls of the network, each branch at steps of its own.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", callback=file_to_write, help="Also draw the curve into this PNG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Expected error of the final sample against network evaluations, with the knee marked."""
    from foreseer.calibration.frontier import branches_of, draw_frontier, trace_frontier
    from foreseer.kernel import Kernel

    loaded = Kernel.load(kernel)
    count = branches_of(loaded) if evaluations else 1
    limit = min(most or 25 * count, count * len(loaded.grid) - 1)
    with progress_bar(as_json) as bar:
        task = bar.add_task("Searching", total=limit - max(2, count) + 1)
        points = trace_frontier(loaded, limit, lambda: bar.update(task, advance=1), by_forward_passes=evaluations)
    if out is not None:
        draw_frontier(points, out)
    if as_json:
        typer.echo(json.dumps([point.to_dict() for point in points], indent=1))
        return
    console.print(_frontier_table(points, evaluations))
    if out is not None:
        console.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)


def _frontier_table(points: list[FrontierPoint], evaluations: bool) -> Table:
    from foreseer.methods.validate import plus_minus

    table = Table(box=None, pad_edge=False)
    budget = ("calls", "NFE") if evaluations else ("NFE",)
    for column in (*budget, "speedup", "expected error", "of prompts, worst", "computed steps"):
        table.add_column(column, justify="left" if column == "computed steps" else "right", overflow="fold")
    for point in points:
        apart = [f"{name}: {' '.join(map(str, steps))}" for name, steps in point.branch_steps.items()]
        mark = " [bold](knee)[/]" if point.knee else ""
        spent = (point.forward_passes, point.nfe) if evaluations else (point.nfe,)
        table.add_row(
            *map(str, spent),
            f"{point.speedup:.2f}",
            f"{plus_minus(point.error, point.spread)}{mark}",
            f"{point.worst:.4f}",
            escape("; ".join([" ".join(map(str, point.computed_steps)), *apart])),
        )
    return table


def portrait(
    kernel: Annotated[Path, typer.Argument(help="A kernel file.")],
    nfe: Annotated[int, typer.Option(min=1, help="Evaluations of the plan that is shown.")] = 9,
    out: Annotated[Path, typer.Option("--out", "-o", callback=file_to_write, help="The PNG to write.")] = Path(
        "portrait.png"
    ),
) -> None:
    """Draw what a kernel shows: projection fidelity, expected error per step, weights, trajectories."""
    from foreseer.calibration.analysis import plot_kernel
    from foreseer.kernel import Kernel
    from foreseer.methods.learned import learned

    loaded = Kernel.load(kernel)
    plot_kernel(loaded, learned(loaded, nfe=nfe).compile(loaded.grid), out)
    console.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)
