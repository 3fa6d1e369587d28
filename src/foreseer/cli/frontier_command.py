"""``foreseer frontier``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foreseer.cli.common import (
    Json,
    console,
    created,
    out_file,
    print_line,
    progress_bar,
)
from foreseer.kernel import Kernel

if TYPE_CHECKING:
    from foreseer.calibration.frontier import FrontierPoint


def frontier(
    kernel: Annotated[Path, typer.Argument(help="A kernel file.")],
    most: Annotated[int | None, typer.Option(min=2, help="Largest budget.")] = None,
    forward_passes: Annotated[
        bool, typer.Option("--forward-passes", help="Count calls of the network; each branch computes its own steps.")
    ] = False,
    out: Annotated[Path | None, out_file("Also draw the curve into this PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Trace the expected error of the final sample over computed steps, and mark the knee."""
    loaded = Kernel.load(kernel)
    from foreseer.calibration.frontier import branches_of, draw_frontier, trace_frontier

    branches = branches_of(loaded) if forward_passes else 1
    limit = min(most or 25 * branches, branches * len(loaded.grid) - 1)
    with progress_bar(as_json) as bar:
        task = bar.add_task("Searching", total=limit - max(2, branches) + 1)
        points = trace_frontier(loaded, limit, lambda: bar.update(task, advance=1), by_forward_passes=forward_passes)
    if out is not None:
        draw_frontier(points, created(out))
    if as_json:
        typer.echo(json.dumps([point.to_dict() for point in points], indent=1))
        return
    console.print(_frontier_table(points, forward_passes))
    if out is not None:
        print_line(f"wrote {out}")


def _frontier_table(points: list[FrontierPoint], forward_passes: bool) -> Table:
    from foreseer.methods.validate import plus_minus

    table = Table(box=None, pad_edge=False)
    budget = ("passes", "NFE") if forward_passes else ("NFE",)
    for column in (*budget, "speedup", "expected error", "of prompts, worst", "computed steps"):
        table.add_column(column, justify="left" if column == "computed steps" else "right", overflow="fold")
    for point in points:
        by_branch = [f"{name}: {' '.join(map(str, steps))}" for name, steps in point.branch_steps.items()]
        mark = " [bold](knee)[/]" if point.knee else ""
        spent = (point.forward_passes, point.nfe) if forward_passes else (point.nfe,)
        table.add_row(
            *map(str, spent),
            f"{point.speedup:.2f}",
            f"{plus_minus(point.error, point.spread)}{mark}",
            f"{point.worst:.4f}",
            escape("; ".join([" ".join(map(str, point.computed_steps)), *by_branch])),
        )
    return table
