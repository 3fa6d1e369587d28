"""The command line: thin, every command a few lines around the library."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from foreseer.errors import ForeseerError
from foreseer.plan.methods import METHODS, find

if TYPE_CHECKING:
    from foreseer.evaluate.compare import Comparison
    from foreseer.plan import Policy

app = typer.Typer(
    help="Sample diffusion models faster: compute a few steps, forecast the others.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
plan_app = typer.Typer(help="Plans: which steps compute, and the rows that forecast the others.", no_args_is_help=True)
app.add_typer(plan_app, name="plan")
console = Console()
errors = Console(stderr=True)


class SiteName(StrEnum):
    """Where features are taken."""

    output = "output"
    last_block = "last_block"


Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
SiteOption = Annotated[SiteName | None, typer.Option("--site", help="Where features are taken.")]
Matrix = Annotated[Path | None, typer.Option("--matrix", help="L2P's weight file (text).")]


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods, their published settings and sources."""
    if as_json:
        listed = [
            {"name": one.name, "title": one.title, "summary": one.summary, "source": one.source, "site": one.site}
            for one in METHODS.values()
        ]
        typer.echo(json.dumps(listed, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("method", "what it does", "source", "site"):
        table.add_column(column, overflow="fold")
    for one in METHODS.values():
        table.add_row(f"[bold]{one.name}[/]", one.summary, one.source, "-" if one.reduces_steps else one.site)
    console.print(table)


@plan_app.command("explain")
def plan_explain(
    what: Annotated[str, typer.Argument(metavar="FILE|METHOD", help="A plan file, or a method's name.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the run, for a method.")] = 50,
    nfe: Annotated[int | None, typer.Option(min=1, help="Evaluations; the published setting if not given.")] = None,
    site: SiteOption = None,
    matrix: Matrix = None,
    shape: Annotated[str | None, typer.Option(help="Feature shape for the memory, as 1,4096,64.")] = None,
    dtype: Annotated[str, typer.Option(help="Feature dtype: float32, bfloat16, float16 or float64.")] = "float32",
    save: Annotated[Path | None, typer.Option(help="Also write the plan to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Tell, step by step, what a plan computes and how it forecasts."""
    from foreseer.grid import Grid
    from foreseer.plan import Plan

    if what in METHODS:
        plan = _policy(what, steps, nfe, site, matrix).compile(Grid.uniform(steps))
    elif Path(what).exists():
        plan = Plan.load(what)
    else:
        raise typer.BadParameter(f"{what!r} is neither a file nor a method ({', '.join(METHODS)}).")
    if save is not None:
        plan.save(save)
    explanation = plan.explain(_shape(shape), dtype)
    typer.echo(json.dumps(explanation.to_dict(), indent=1) if as_json else str(explanation))


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")],
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="What to draw; may be repeated.")],
    method: Annotated[str | None, typer.Option(help="A method's name; every step is computed if none.")] = None,
    nfe: Annotated[int | None, typer.Option(min=1, help="Network evaluations; default: as published.")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan file, instead of a method.")] = None,
    matrix: Matrix = None,
    site: SiteOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the sampler.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first picture; the next has the next.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG (GIF for video); numbered if several.")] = Path(
        "out.png"
    ),
    height: Annotated[int | None, typer.Option(min=8)] = None,
    width: Annotated[int | None, typer.Option(min=8)] = None,
    guidance: Annotated[float | None, typer.Option(help="guidance_scale of the pipeline.")] = None,
    true_cfg: Annotated[float | None, typer.Option(help="true_cfg_scale, where the pipeline has it.")] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    as_json: Json = False,
) -> None:
    """Draw pictures with any diffusers pipeline, accelerated by a method or a plan."""
    from foreseer.evaluate.generate import Request, generate_all

    options = {
        "height": height,
        "width": width,
        "guidance_scale": guidance,
        "true_cfg_scale": true_cfg,
        "negative_prompt": negative,
    }
    request = Request(model, prompt, steps, seed, out, options, dtype, device)

    def policy_for(run_steps: int) -> tuple[Policy | None, int]:
        return _chosen(method, plan, run_steps, nfe=nfe, site=site, matrix=matrix)

    for made in generate_all(request, policy_for, quiet=as_json):
        if as_json:
            typer.echo(json.dumps(made.to_dict()))
        else:
            console.print(made.words(), highlight=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for page, picture and figures.")] = Path("demo"),
    prompts: Annotated[int, typer.Option(min=1, max=64, help="How many prompts to draw.")] = 6,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the reference.")] = 50,
    nfe: Annotated[int, typer.Option(min=1, help="Network evaluations of every method.")] = 10,
    site: SiteOption = SiteName.output,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    as_json: Json = False,
) -> None:
    """Draw with the bundled pipeline: every step computed, then each method at fewer evaluations, side by side."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from foreseer.evaluate.demo import Demo, run_demo, write_demo

    if nfe > steps:
        raise typer.BadParameter(f"{nfe} evaluations do not fit {steps} steps.", param_hint="--nfe")
    asked = Demo(prompts, steps, nfe, (site or SiteName.output).value, dtype)
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=as_json) as bar:
        task = bar.add_task("Loading", total=asked.runs())
        comparison = run_demo(asked, lambda words: bar.update(task, advance=1, description=words))
    paths = write_demo(comparison, out)
    if as_json:
        typer.echo(paths["figures"].read_text(), nl=False)
        return
    console.print(_comparison_table(comparison))
    for path in paths.values():
        console.print(f"wrote {path}", highlight=False)


def _comparison_table(comparison: Comparison) -> Table:
    table = Table(title=f"{len(comparison.prompts)} prompts, reference: {comparison.steps} steps", title_justify="left")
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


def _policy(method: str, steps: int, nfe: int | None, site: SiteName | None, matrix: Path | None) -> Policy:
    chosen = find(method)
    if matrix is not None:
        chosen = chosen.with_matrix(matrix)
    return chosen.policy(steps, nfe, site.value if site is not None else None)


def _chosen(
    method: str | None, plan: Path | None, steps: int, *, nfe: int | None, site: SiteName | None, matrix: Path | None
) -> tuple[Policy | None, int]:
    """The policy that was asked for, and the steps that the sampler takes under it."""
    from foreseer.plan import Plan, Policy

    if method is not None and plan is not None:
        raise typer.BadParameter("give a method or a plan, not both.", param_hint="--plan")
    if plan is not None:
        return Policy.from_plan(Plan.load(plan)), steps
    if method is None:
        if nfe is not None:
            raise typer.BadParameter("a budget needs a method: add --method.", param_hint="--nfe")
        return None, steps
    if find(method).reduces_steps:
        return None, nfe or steps
    return _policy(method, steps, nfe, site, matrix), steps


def _shape(words: str | None) -> tuple[int, ...] | None:
    if words is None:
        return None
    try:
        return tuple(int(word) for word in words.replace("x", ",").split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{words!r} is no shape; write it as 1,4096,64.", param_hint="--shape") from error


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; errors become one readable line and exit code 2."""
    try:
        return app(arguments)
    except ForeseerError as error:
        errors.print(f"[bold red]Error:[/] {error}", highlight=False, soft_wrap=True)
    except ModuleNotFoundError as error:
        errors.print(f"[bold red]Error:[/] {error.name} is not installed: pip install 'foreseer[diffusers,report]'.")
    except OSError as error:
        errors.print(f"[bold red]Error:[/] {error.strerror or error}: {error.filename}.", highlight=False)
    sys.exit(2)


if __name__ == "__main__":
    main()
