"""``foreseer bench``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from foreseer.cli.bench_table import PUBLISHED, show_results
from foreseer.cli.common import (
    Json,
    Matrix,
    Seed,
    SiteOption,
    bench_progress,
    console,
    errors,
    folder_to_write,
    no_savings,
)
from foreseer.cli.pipeline_options import DEFAULT_STEPS, Prompts, Setup, runs_pipeline
from foreseer.cli.workers import work_bar
from foreseer.kernel import Kernel

if TYPE_CHECKING:
    from foreseer.evaluate.bench.prepare import BenchRequest, PreparedBench
    from foreseer.evaluate.peers import CalibrationPrompts
    from foreseer.scale import Place

    Make = Callable[[], PreparedBench]

BUDGET_FRACTION = 5  # steps of the reference over the budget, unless budgets are given: methods differ clearly there


class ScaleName(StrEnum):
    """Size of an architecture with random weights."""

    full = "full"
    small = "small"


Name = Annotated[str | None, typer.Option("--preset", help="A paper's table by name (--list-presets).")]
PresetModel = Annotated[str | None, typer.Option("--model", help="As MODEL: run the preset's methods on this model.")]
Random = Annotated[bool, typer.Option("--random-weights", help="The preset's architecture; cost only, no fidelity.")]
ScaleOption = Annotated[ScaleName | None, typer.Option(help="With --random-weights: full size, or small for a CPU.")]
List = Annotated[bool, typer.Option("--list-presets", help="List the papers' tables and exit.")]
Methods = Annotated[str | None, typer.Option(help="Names, separated by commas; by default five methods.")]
Everything = Annotated[bool, typer.Option("--all", help="Run every method and peer that needs no file.")]
Budgets = Annotated[str | None, typer.Option(help="Computed steps (NFE), separated by commas: 14,10,published.")]
Passes = Annotated[str | None, typer.Option("--forward-passes", help="Instead: calls of the network per run, 28,20.")]
Calibration = Annotated[Path | None, typer.Option(help="A text file of prompts for peers that learn.")]
Kernels = Annotated[list[Path] | None, typer.Option(help="A kernel file: learned rows at each budget, L2P trained.")]


@runs_pipeline
def bench(
    model: Annotated[str | None, typer.Argument(help="'emoji' (bundled), a diffusers folder, or a hub id.")] = None,
    prompts: Prompts = None,
    preset: Name = None,
    preset_model: PresetModel = None,
    random_weights: Random = False,
    scale: ScaleOption = None,
    presets: List = False,
    methods: Methods = None,
    everything: Everything = False,
    nfe: Budgets = None,
    forward_passes: Passes = None,
    kernel: Kernels = None,
    plan: Annotated[list[Path] | None, typer.Option(help="A plan file; may be repeated.")] = None,
    matrix: Matrix = None,
    calibration_prompts: Calibration = None,
    site: SiteOption = None,
    measures: Annotated[str | None, typer.Option(help="Names, separated by commas; by default all that apply.")] = None,
    real: Annotated[Path | None, typer.Option(help="A folder of real pictures, for FID.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of prompts to use, from the first.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of the reference.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report; resumed if it exists.")] = Path(
        "report"
    ),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on with a budget that saves nothing.")] = False,
    as_json: Json = False,
    *,
    setup: Setup,
) -> None:
    """Compare methods and peers with the run that computes every step; write a page, JSON, CSV and tables."""
    if presets:
        _list_presets(as_json)
        return
    _quiet()
    from foreseer.evaluate.bench.prepare import BenchRequest

    folder_to_write(out)
    if everything and methods is not None:
        raise typer.BadParameter("it already includes every method: leave --methods out.", param_hint="--all")
    prompts, real, matrix = (path if path is None else path.absolute() for path in (prompts, real, matrix))
    kernel, plan = ([path.absolute() for path in paths or ()] for paths in (kernel, plan))
    for path in kernel:
        Kernel.load(path)  # refused here, not in a row of the table
    request = BenchRequest(
        *(prompts, limit, steps, seed),
        options=setup.call,
        measures=_names(measures),
        real=real,
        dtype=setup.dtype,
        device=setup.device,
        command=shlex.join(["foreseer", *sys.argv[1:]]),
    )
    files = (kernel, plan, matrix)
    if nfe is not None and forward_passes is not None:
        raise typer.BadParameter("give computed steps (--nfe) or forward passes, not both.", param_hint="--nfe")
    if preset is None:
        _refuse({"--model": preset_model, "--random-weights": random_weights, "--scale": scale}, "it needs --preset")
        more = {
            "site": site,
            "everything": everything,
            "calibration_prompts": _calibration(calibration_prompts, out.absolute()),
            "forward_passes": _passes(forward_passes),
        }
        make = _methods(request, model, _names(methods), partial(_budgets, nfe, force), files=files, **more)
    else:
        decided = {"--nfe": nfe, "--plan": plan, "--site": site, "--all": everything}
        decided |= {"--calibration-prompts": calibration_prompts, "--forward-passes": forward_passes}
        _refuse(decided, "the preset decides it")
        size = _scale(random_weights, scale)
        make = _preset(request, preset, _model(model, preset_model), size, names=_names(methods), files=files)
    _run(make, out, setup.place, as_json, threads)


def _run(make: Make, out: Path, place: Place | None, as_json: bool, threads: int | None) -> None:
    prepared = make() if place is None else None  # refuses bad usage before torch is imported
    import torch

    from foreseer.evaluate.report.bench_report import write_report

    if threads is not None:
        torch.set_num_threads(threads)
    if place is not None:
        from foreseer.evaluate.bench.bench_workers import run_bench_on

        with work_bar("Measuring", as_json) as state:
            results = run_bench_on(place, make, out, state)
    else:
        from foreseer.evaluate.bench.bench import run_bench

        assert prepared is not None
        with bench_progress(as_json) as progress:
            announce = errors.print if not as_json else lambda estimate: None
            results = run_bench(prepared.bench, prepared.entries, prepared.pipe, out, progress, announce=announce)
    show_results(results, write_report(results, out), as_json)


Files = tuple[Sequence[Path], Sequence[Path], Path | None]


def _methods(
    request: BenchRequest,
    model: str | None,
    methods: list[str] | None,
    budgets: Callable[[int], list[int | None]],
    *,
    files: Files,
    **more: Any,
) -> Make:
    """Prepare methods at budgets."""
    from foreseer.evaluate.bench.prepare import compare_methods
    from foreseer.evaluate.bench.selection import Selection
    from foreseer.pipelines import sampling_of

    if model is None:
        raise typer.BadParameter("give a MODEL ('emoji', a folder, a hub id), or --preset.", param_hint="MODEL")
    kernels, plans, matrix = files
    selection = Selection(0, (), methods, kernels, plans, matrix, **more)
    # Bad usage is reported before a worker starts.
    budgets(request.steps or int(sampling_of(model).get("num_inference_steps", DEFAULT_STEPS)))
    return partial(compare_methods, request, model, selection, budgets)


def _calibration(prompts: Path | None, out: Path) -> CalibrationPrompts | None:
    """Read the prompts for peers that learn; their results are kept in the report's folder."""
    if prompts is None:
        return None
    from foreseer.pipelines import read_prompts

    texts = read_prompts(prompts)
    from foreseer.evaluate.peers import CalibrationPrompts

    return CalibrationPrompts(texts, folder=out / "learned")


def _preset(
    request: BenchRequest, name: str, model: str | None, scale: Any, *, names: list[str] | None, files: Files
) -> Make:
    """Prepare a paper's table."""
    from foreseer.evaluate.bench.prepare import PresetRequest, compare_preset

    kernels, _, matrix = files
    if len(kernels) > 1:
        raise typer.BadParameter("a preset trains L2P from one kernel; give one.", param_hint="--kernel")
    return partial(
        compare_preset, request, PresetRequest(name, model, scale, names, matrix, kernels[0] if kernels else None)
    )


def _model(argument: str | None, option: str | None) -> str | None:
    if argument is not None and option is not None:
        raise typer.BadParameter(f"the model is given twice: {argument!r} and {option!r}.", param_hint="--model")
    return argument or option


def _scale(random_weights: bool, scale: ScaleName | None) -> str | None:
    if scale is not None and not random_weights:
        raise typer.BadParameter("it needs --random-weights.", param_hint="--scale")
    return (scale or ScaleName.full).value if random_weights else None


def _refuse(options: dict[str, Any], why: str) -> None:
    received = [name for name, value in options.items() if value]
    if received:
        raise typer.BadParameter(f"{why}.", param_hint=received[0])


def _list_presets(as_json: bool) -> None:
    from foreseer.evaluate.presets import list_presets

    presets = list_presets()
    if as_json:
        typer.echo(json.dumps(presets, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("preset", "what it is", "random weights"):
        table.add_column(column, overflow="fold", no_wrap=column == "preset")
    for preset in presets:
        table.add_row(f"[bold]{preset['name']}[/]", preset["title"], "yes" if preset["random_weights"] else "no")
    console.print(table)


def _quiet() -> None:
    """Keep torch's profiler from writing into the progress bar; set before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name for part in text.split(",") if (name := part.strip())]


def _passes(text: str | None) -> list[int]:
    try:
        passes = [int(name) for name in dict.fromkeys(_names(text) or ())]
    except ValueError:
        passes = [0]
    if text is not None and (not passes or min(passes) < 1):
        raise typer.BadParameter(f"{text!r}: write numbers of at least 1, as in 28,20.", param_hint="--forward-passes")
    return passes


def _budgets(text: str | None, force: bool, steps: int) -> list[int | None]:
    """The budgets of a run; without ``force`` none may be the whole run."""
    names = _names(text)
    if not names:
        return [max(1, round(steps / BUDGET_FRACTION))]
    try:
        budgets = [None if name == PUBLISHED else int(name) for name in dict.fromkeys(names)]
        if steps in budgets and not force:
            raise no_savings(steps, steps, "--nfe", "ask for fewer steps, or give --force to measure it")
        return budgets
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r}: write numbers and {PUBLISHED!r}, as in 14,10.", param_hint="--nfe"
        ) from error
