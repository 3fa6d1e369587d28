"""``foreseer generate`` and ``foreseer demo``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from foreseer.cli.common import (
    Device,
    Dtype,
    Evaluations,
    Guidance,
    Height,
    Json,
    Matrix,
    MaxError,
    Negative,
    Nfe,
    Others,
    Picture,
    Seed,
    SiteOption,
    Speedup,
    TrueCfg,
    Width,
    call_options,
    console,
    file_to_write,
    gated_policy,
    kernel_policy,
    method_policy,
    progress_bar,
)
from foreseer.methods import find
from foreseer.plan import Plan, Policy

if TYPE_CHECKING:
    from foreseer.evaluate.compare import Comparison
    from foreseer.plan import Policy

Gated = Annotated[
    bool, typer.Option("--gated", help="With a kernel: spend on each image what it needs; --nfe is the mean.")
]
MaxNfe = Annotated[int | None, typer.Option(min=1, help="Evaluations that no gated run may exceed.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", callback=file_to_write, help="PNG (GIF for video); numbered if several.")
]


def generate(
    model: Annotated[str, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")],
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="What to draw; may be repeated.")],
    method: Annotated[str | None, typer.Option(help="A method's name; every step is computed if none.")] = None,
    nfe: Nfe = None,
    evaluations: Evaluations = None,
    kernel: Annotated[Path | None, typer.Option(help="A kernel file: learned rows and steps.")] = None,
    speedup: Speedup = None,
    max_error: MaxError = None,
    gated: Gated = False,
    max_nfe: MaxNfe = None,
    plan: Annotated[Path | None, typer.Option(help="A plan file.")] = None,
    matrix: Matrix = None,
    site: SiteOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the sampler.")] = None,
    seed: Seed = 0,
    out: Out = Path("out.png"),
    height: Height = None,
    width: Width = None,
    guidance: Guidance = None,
    true_cfg: TrueCfg = None,
    negative: Negative = None,
    image: Picture = None,
    option: Others = None,
    dtype: Dtype = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Draw pictures with any diffusers pipeline, accelerated by a method, a kernel or a plan."""
    from foreseer.evaluate.generate import Request, generate_all

    _check_learned(kernel, plan, method, site)
    _check_budget(kernel, method, nfe, (evaluations, speedup, max_error), gated=gated, max_nfe=max_nfe)
    if matrix is not None and method != "l2p":
        raise typer.BadParameter("--matrix belongs to --method l2p.", param_hint="--matrix")

    @cache
    def policy_for(run_steps: int) -> tuple[Policy | None, int]:
        if plan is not None:
            return Policy.from_plan(Plan.load(plan)), run_steps
        if kernel is not None and gated:
            return gated_policy(kernel, nfe, max_error, max_nfe), run_steps
        if kernel is not None:
            return kernel_policy(kernel, nfe, speedup, max_error, evaluations=evaluations), run_steps
        if method is None:
            return None, run_steps
        if find(method).reduces_steps:
            return None, nfe or run_steps
        return method_policy(method, run_steps, nfe, site, matrix), run_steps

    policy_for(steps or 50)  # bad usage is told before a model is loaded
    options = call_options(height, width, guidance, true_cfg=true_cfg, negative=negative, image=image, others=option)
    request = Request(model, prompt, steps, seed, out, options, dtype, device)
    for made in generate_all(request, policy_for, quiet=as_json):
        if as_json:
            typer.echo(json.dumps(made.to_dict()))
        else:
            console.print(made.words(), highlight=False, markup=False, soft_wrap=True)


def _check_learned(kernel: Path | None, plan: Path | None, method: str | None, site: str | None) -> None:
    """One way to sample, and no site where the file has one."""
    chosen = [name for name, value in (("--method", method), ("--kernel", kernel), ("--plan", plan)) if value]
    if len(chosen) > 1:
        raise typer.BadParameter(f"give one of {', '.join(chosen)}.", param_hint=chosen[1])
    if site is not None and (kernel or plan):
        raise typer.BadParameter("a kernel or a plan has its site: leave --site out.", param_hint="--site")


def _check_budget(
    kernel: Path | None,
    method: str | None,
    nfe: int | None,
    of_kernel: tuple[int | None, float | None, float | None],
    *,
    gated: bool,
    max_nfe: int | None,
) -> None:
    """A budget belongs to what can keep it."""
    evaluations, speedup, _ = of_kernel
    if not kernel and any(value is not None for value in of_kernel):
        raise typer.BadParameter("--evaluations, --speedup and --max-error need --kernel.", param_hint="--kernel")
    if nfe and not (method or kernel):
        raise typer.BadParameter("a budget needs --method or --kernel.", param_hint="--nfe")
    if gated and (kernel is None or speedup is not None or evaluations is not None):
        raise typer.BadParameter("it takes a --kernel, and --nfe or --max-error.", param_hint="--gated")
    if max_nfe is not None and not gated:
        raise typer.BadParameter("it belongs to --gated; without a gate, give --nfe.", param_hint="--max-nfe")


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for page, picture and figures.")] = Path("demo"),
    prompts: Annotated[int, typer.Option(min=1, max=64, help="How many prompts to draw.")] = 6,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the reference.")] = 50,
    nfe: Annotated[int, typer.Option(min=1, help="Network evaluations of every method.")] = 10,
    site: SiteOption = "output",
    dtype: Dtype = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; so small a model gains little from more.")] = 1,
    as_json: Json = False,
) -> None:
    """Draw with the bundled pipeline: every step computed, then each method at fewer evaluations, side by side."""
    from foreseer.evaluate.demo import Demo, run_demo, write_demo

    if nfe > steps:
        raise typer.BadParameter(f"{nfe} evaluations do not fit {steps} steps.", param_hint="--nfe")
    asked = Demo(prompts, steps, nfe, site or "output", dtype, threads)
    with progress_bar(as_json) as bar:
        task = bar.add_task("Loading", total=asked.runs())
        comparison = run_demo(asked, lambda words: bar.update(task, advance=1, description=words))
    paths = write_demo(comparison, out)
    if as_json:
        typer.echo(paths["figures"].read_text(), nl=False)
        return
    console.print(_comparison_table(comparison))
    for path in paths.values():
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def _comparison_table(comparison: Comparison) -> Table:
    title = f"{len(comparison.prompts)} prompts; the reference computes {comparison.steps} steps"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)  # fits 80 columns
    for column in ("method", "NFE", "seconds", "speedup", "of T/NFE", "PSNR, dB", "SSIM"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for row in comparison.rows():
        equal = row["method"] == "reference"
        table.add_row(
            row["title"],
            str(row["nfe"]),
            f"{row['seconds']:.3f}",
            f"{row['speedup']:.2f}",
            f"{row['realised']:.2f}",
            "-" if equal else f"{row['psnr']:.1f}",
            "-" if equal else f"{row['ssim']:.3f}",
        )
    return table
