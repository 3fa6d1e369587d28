"""``foreseer bench``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from foreseer.cli.common import (
    Device,
    Dtype,
    Guidance,
    Height,
    Json,
    Matrix,
    Negative,
    SiteOption,
    TrueCfg,
    Width,
    call_options,
    console,
    progress_bar,
)

if TYPE_CHECKING:
    from foreseer.evaluate.engine import Progress
    from foreseer.evaluate.results import BenchResults, Row

PUBLISHED = "published"
# Of the reference's steps, where no budget is given.
DEFAULT_SPEEDUP = 5


def bench(
    model: Annotated[str, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")],
    prompts: Annotated[Path | None, typer.Option(help="A text file, one prompt a line.")] = None,
    methods: Annotated[str | None, typer.Option(help="Names, with commas; by default all that need no file.")] = None,
    nfe: Annotated[str | None, typer.Option(help="Budgets, with commas: 14,10,published.")] = None,
    kernel: Annotated[list[Path] | None, typer.Option(help="A kernel file: learned rows at each budget.")] = None,
    plan: Annotated[list[Path] | None, typer.Option(help="A plan file; may be repeated.")] = None,
    matrix: Matrix = None,
    site: SiteOption = None,
    measures: Annotated[str | None, typer.Option(help="Names, with commas; by default all that apply.")] = None,
    real: Annotated[Path | None, typer.Option(help="A folder of real pictures, for FID.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many prompts.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of the reference.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first prompt; the next has the next.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the report; interrupted, it goes on there.")
    ] = Path("report"),
    height: Height = None,
    width: Width = None,
    guidance: Guidance = None,
    true_cfg: TrueCfg = None,
    negative: Negative = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Json = False,
) -> None:
    """Measure methods and peers against the run that computes every step; write a page, JSON, CSV and tables."""
    _quiet()
    from foreseer.evaluate.bench import Bench, run_bench
    from foreseer.evaluate.bench_report import write_report
    from foreseer.evaluate.contenders import Choice
    from foreseer.pipelines import load_pipeline, read_prompts, split_sampling

    words = read_prompts(prompts) if prompts is not None else None
    given = call_options(height, width, guidance, true_cfg=true_cfg, negative=negative)
    budgets = _budgets(nfe, steps or 50)
    choice = Choice(
        steps=steps or max(50, *(one or 0 for one in budgets)),
        budgets=budgets,
        methods=_names(methods),
        kernels=kernel or (),
        plans=plan or (),
        matrix=matrix,
        site=site.value if site is not None else None,
    )
    choice.contenders()  # bad usage is told before a model is loaded
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    pipe, sampling = load_pipeline(model, dtype, device)
    pipe.set_progress_bar_config(disable=True)
    examples, defaults = split_sampling(sampling)
    options = {**defaults, **given}
    run_steps = steps or int(options.get("num_inference_steps", 50))
    options.pop("num_inference_steps", None)
    choice = _for_model(choice, model, run_steps, _budgets(nfe, run_steps), options)
    asked = Bench(
        model=model,
        prompts=(words or examples)[:limit],
        steps=run_steps,
        seed=seed,
        options=options,
        measures=_names(measures),
        real=real,
        title=f"Foreseer bench: {model}, {run_steps} steps",
        command=shlex.join(["foreseer", *sys.argv[1:]]),
    )
    with _progress(as_json) as progress:
        results = run_bench(asked, choice.contenders(), pipe, out, progress)
    _show(results, write_report(results, out), as_json)


def _show(results: BenchResults, paths: dict[str, Path], as_json: bool) -> None:
    if as_json:
        typer.echo(paths["json"].read_text(), nl=False)
        return
    console.print(_table(results))
    _print_missing(results)
    for path in paths.values():
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def _quiet() -> None:
    """Keep torch's profiler from writing into the progress bar; it reads these when torch is first imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _names(words: str | None) -> list[str] | None:
    return None if words is None else [name for one in words.split(",") if (name := one.strip())]


def _budgets(words: str | None, steps: int) -> list[int | None]:
    names = _names(words)
    if not names:
        return [max(1, round(steps / DEFAULT_SPEEDUP))]
    try:
        return [None if name == PUBLISHED else int(name) for name in dict.fromkeys(names)]
    except ValueError as error:
        raise typer.BadParameter(
            f"{words!r}: write numbers and {PUBLISHED!r}, as in 14,10.", param_hint="--nfe"
        ) from error


def _for_model(choice: Any, model: str, steps: int, budgets: list[int | None], options: dict[str, Any]) -> Any:
    """The choice for a model that is known: its steps, and for a bundled one the files that come with it."""
    from dataclasses import replace

    from foreseer import zoo

    bundled = model in zoo.NAMES and choice.methods is None
    kernels = choice.kernels or ([zoo.kernel_path(model)] if bundled else ())
    plans = [path for budget in budgets if budget and (path := zoo.plan_path(model, budget)).is_file()]
    plans = choice.plans or (plans if bundled and steps == 50 else ())
    return replace(choice, steps=steps, budgets=budgets, options=options, kernels=kernels, plans=plans)


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    with progress_bar(quiet) as bar:
        task = bar.add_task("Preparing", total=None)

        def report(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total, description=words[:40])

        yield report


def _table(results: BenchResults) -> Table:
    shown = [one for one in results.measures if one.missing is None]
    table = Table(title=f"{len(results.prompts)} prompts, {results.steps} steps", title_justify="left")
    for column in ("method", "NFE", "seconds", "speedup", "by FLOPs", *(one.title for one in shown)):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=column == "method")
    for row in results.rows:
        if row.latency is None:
            table.add_row(row.title, _figure(row.budget, "d"), "-")  # why is said beneath
            continue
        table.add_row(row.title, *_cells(row), *(_figure(row.measures.get(one.name), ".3f") for one in shown))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    seconds = row.latency.median if row.latency is not None else None
    nfe = "d" if row.nfe is not None and row.nfe == int(row.nfe) else ".1f"
    return (
        _figure(int(row.nfe) if nfe == "d" and row.nfe is not None else row.nfe, nfe),
        _figure(seconds, ".3f"),
        _figure(row.speedup, ".2f"),
        _figure(row.flops_speedup, ".2f"),
    )


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else "equal" if value == float("inf") else format(value, form)


def _print_missing(results: BenchResults) -> None:
    """What could not be measured, and why; what failed."""
    lines = [f"{one.title}: missing ({one.missing})" for one in results.measures if one.missing is not None]
    lines += [f"{row.title}, {row.budget or PUBLISHED}: {row.error}" for row in results.rows if row.error]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
