"""``foreseer demo``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from foreseer.cli.bench_table import show_results
from foreseer.cli.common import Dtype, Json, SiteOption, bench_progress, check_budget, folder_to_write


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for page, picture and figures.")] = Path("demo"),
    prompts: Annotated[int, typer.Option(min=1, max=64, help="Number of prompts.")] = 6,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the reference.")] = 50,
    nfe: Annotated[int, typer.Option(min=1, help="Computed steps of every method.")] = 10,
    everything: Annotated[bool, typer.Option("--all", help="Run every method that needs no file.")] = False,
    site: SiteOption = "output",
    dtype: Dtype = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; the model is small and needs one.")] = 1,
    as_json: Json = False,
) -> None:
    """Draw with the bundled model: every step, and each method at fewer steps, side by side."""
    check_budget(nfe, steps, "--nfe")
    folder_to_write(out)
    import torch

    from foreseer.evaluate.bench.bench import run_bench
    from foreseer.evaluate.bench.demo import Demo
    from foreseer.evaluate.report.bench_report import write_demo

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, bench_progress(as_json) as progress:
        prepared = Demo(prompts, steps, nfe, site or "output", dtype, everything).prepare()
        results = run_bench(prepared.bench, prepared.entries, prepared.pipe, Path(folder), progress)
        paths = write_demo(results, Path(folder), out, everything=everything)
    show_results(results, paths, as_json)
