"""``foreseer bench``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from foreseer.cli.bench_table import PUBLISHED, show_results
from foreseer.cli.common import (
    Device,
    Dtype,
    Guidance,
    Height,
    Json,
    Matrix,
    Negative,
    Others,
    Picture,
    Seed,
    SiteOption,
    TrueCfg,
    Width,
    call_options,
    console,
    progress_bar,
)

if TYPE_CHECKING:
    from foreseer.evaluate.engine import Progress
    from foreseer.evaluate.peers import CalibrationPrompts
    from foreseer.evaluate.ready import Ready, Request

# Of the reference's steps, where no budget is given.
DEFAULT_SPEEDUP = 5


class ScaleName(StrEnum):
    """Size of an architecture with random weights."""

    full = "full"
    small = "small"


Name = Annotated[str | None, typer.Option("--preset", help="A paper's table by name (--list-presets).")]
PresetModel = Annotated[str | None, typer.Option("--model", help="As MODEL: run the preset's methods on this one.")]
Random = Annotated[bool, typer.Option("--random-weights", help="The preset's architecture; cost only, no fidelity.")]
ScaleOption = Annotated[ScaleName | None, typer.Option(help="Of --random-weights: released size, or small for a CPU.")]
List = Annotated[bool, typer.Option("--list-presets", help="List the papers' tables, and stop.")]
Methods = Annotated[str | None, typer.Option(help="Names, with commas; by default all that need no file.")]
Budgets = Annotated[str | None, typer.Option(help="Budgets, with commas: 14,10,published.")]
Calibration = Annotated[Path | None, typer.Option(help="A text file of prompts: peers that learn get these.")]
Kernels = Annotated[list[Path] | None, typer.Option(help="A kernel file: learned rows at each budget, L2P trained.")]


def bench(
    model: Annotated[str | None, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file, one prompt a line.")] = None,
    preset: Name = None,
    preset_model: PresetModel = None,
    random_weights: Random = False,
    scale: ScaleOption = None,
    presets: List = False,
    methods: Methods = None,
    nfe: Budgets = None,
    kernel: Kernels = None,
    plan: Annotated[list[Path] | None, typer.Option(help="A plan file; may be repeated.")] = None,
    matrix: Matrix = None,
    calibration_prompts: Calibration = None,
    site: SiteOption = None,
    measures: Annotated[str | None, typer.Option(help="Names, with commas; by default all that apply.")] = None,
    real: Annotated[Path | None, typer.Option(help="A folder of real pictures, for FID.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many prompts.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of the reference.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report; it goes on there.")] = Path("report"),
    height: Height = None,
    width: Width = None,
    guidance: Guidance = None,
    true_cfg: TrueCfg = None,
    negative: Negative = None,
    image: Picture = None,
    option: Others = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Json = False,
) -> None:
    """Measure methods and peers against the run that computes every step; write a page, JSON, CSV and tables."""
    _quiet(threads)
    from foreseer.evaluate.ready import Request

    if presets:
        _list_presets(as_json)
        return
    request = Request(
        *(prompts, limit, steps, seed),
        options=call_options(height, width, guidance, true_cfg=true_cfg, negative=negative, image=image, others=option),
        measures=_names(measures),
        real=real,
        dtype=dtype,
        device=device,
        command=shlex.join(["foreseer", *sys.argv[1:]]),
    )
    files = (kernel or (), plan or (), matrix)
    if preset is None:
        _refuse({"--model": preset_model, "--random-weights": random_weights, "--scale": scale}, "it needs --preset")
        learned = _calibration(calibration_prompts, out)
        ready = _methods(request, model, methods, nfe, files=files, site=site, learned=learned)
    else:
        decided = {"--nfe": nfe, "--plan": plan, "--site": site, "--calibration-prompts": calibration_prompts}
        _refuse(decided, "the preset decides it")
        size = _scale(random_weights, scale)
        ready = _preset(request, preset, _model(model, preset_model), size, names=_names(methods), files=files)
    _run(ready, out, as_json)


def _run(ready: Ready, out: Path, as_json: bool) -> None:
    from foreseer.evaluate.bench import run_bench
    from foreseer.evaluate.bench_report import write_report

    with _progress(as_json) as progress:
        results = run_bench(ready.asked, ready.contenders, ready.pipe, out, progress)
    show_results(results, write_report(results, out), as_json)


Files = tuple[Sequence[Path], Sequence[Path], Path | None]


def _methods(
    request: Request,
    model: str | None,
    methods: str | None,
    nfe: str | None,
    *,
    files: Files,
    site: str | None,
    learned: CalibrationPrompts | None,
) -> Ready:
    """Methods at budgets."""
    from foreseer.evaluate.contenders import Choice
    from foreseer.evaluate.ready import compare_methods

    if model is None:
        raise typer.BadParameter("give a MODEL ('emoji', a folder, a hub id), or --preset.", param_hint="MODEL")
    kernels, plans, matrix = files
    choice = Choice(0, (), _names(methods), kernels, plans, matrix, site, calibration_prompts=learned)
    return compare_methods(request, model, choice, lambda steps: _budgets(nfe, steps))


def _calibration(prompts: Path | None, out: Path) -> CalibrationPrompts | None:
    """The prompts of a file; what is learned from them is kept in the report's folder."""
    if prompts is None:
        return None
    from foreseer.evaluate.peers import CalibrationPrompts
    from foreseer.pipelines import read_prompts

    return CalibrationPrompts(read_prompts(prompts), folder=out / "learned")


def _preset(
    request: Request, name: str, model: str | None, scale: Any, *, names: list[str] | None, files: Files
) -> Ready:
    """A paper's table."""
    from foreseer.evaluate.ready import Table, compare_preset

    kernels, _, matrix = files
    if len(kernels) > 1:
        raise typer.BadParameter("a preset trains L2P from one kernel; give one.", param_hint="--kernel")
    return compare_preset(request, Table(name, model, scale, names, matrix, kernels[0] if kernels else None))


def _model(argument: str | None, option: str | None) -> str | None:
    if argument is not None and option is not None:
        raise typer.BadParameter(f"the model is given twice: {argument!r} and {option!r}.", param_hint="--model")
    return argument or option


def _scale(random_weights: bool, scale: ScaleName | None) -> str | None:
    if scale is not None and not random_weights:
        raise typer.BadParameter("it belongs to --random-weights.", param_hint="--scale")
    return (scale or ScaleName.full).value if random_weights else None


def _refuse(options: dict[str, Any], why: str) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise typer.BadParameter(f"{why}.", param_hint=given[0])


def _list_presets(as_json: bool) -> None:
    from foreseer.evaluate.ready import list_presets

    found = list_presets()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("preset", "what it is", "random weights"):
        table.add_column(column, overflow="fold", no_wrap=column == "preset")
    for one in found:
        table.add_row(f"[bold]{one['name']}[/]", one["title"], "yes" if one["random_weights"] else "no")
    console.print(table)


def _quiet(threads: int | None) -> None:
    """Keep torch's profiler from writing into the progress bar; it reads these when torch is first imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


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


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    with progress_bar(quiet) as bar:
        task = bar.add_task("Preparing", total=None)

        def report(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total, description=words[:40])

        yield report
