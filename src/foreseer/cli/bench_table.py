"""Print the results of a bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from foreseer.cli.common import console, print_line

if TYPE_CHECKING:
    from foreseer.evaluate.bench.results import BenchResults, Row

PUBLISHED = "published"


def show_results(results: BenchResults, paths: dict[str, Path], as_json: bool) -> None:
    """Print the table, missing measures, failures and the files written; or the results as JSON."""
    if as_json:
        typer.echo(paths["json"].read_text(), nl=False)
        return
    console.print(_table(results))
    for measure in results.measures:
        if measure.missing is not None:
            print_line(f"{measure.title}: missing ({measure.missing})")
    for row in results.rows:
        if row.error:
            print_line(f"{row.title}, {row.budget or PUBLISHED}: {row.error}")
    for note in results.notes:
        print_line(note)
    for path in paths.values():
        print_line(f"wrote {path}")


def _table(results: BenchResults) -> Table:
    count = len(results.prompts)
    measures = [measure for measure in results.measures if measure.missing is None]
    title = f"{count} prompt{'s' if count > 1 else ''}; the reference computes {results.steps} steps"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("method", "NFE", "seconds", "speedup", "by FLOPs", *(measure.title for measure in measures)):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=column == "method")
    for row in results.rows:
        if row.latency is None:
            table.add_row(row.title, _number(row.budget, "d"), "-")  # the error is printed below
            continue
        values = (_number(row.measures.get(measure.name), ".3f") for measure in measures)
        table.add_row(row.title, *_cost(row), *values)
    return table


def _cost(row: Row) -> tuple[str, ...]:
    whole = row.nfe is not None and row.nfe == int(row.nfe)
    return (
        _number(row.nfe, ".0f" if whole else ".1f"),
        _number(row.latency.median if row.latency is not None else None, ".3f"),
        _number(row.speedup, ".2f"),
        _number(row.flops_speedup, ".2f"),
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else "equal" if value == float("inf") else format(value, form)
