"""What ``foreseer bench`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from foreseer.cli.common import console

if TYPE_CHECKING:
    from foreseer.evaluate.results import BenchResults, Row

PUBLISHED = "published"


def show_results(results: BenchResults, paths: dict[str, Path], as_json: bool) -> None:
    """The table, what is missing or failed, and the files written; or the results as JSON."""
    if as_json:
        typer.echo(paths["json"].read_text(), nl=False)
        return
    console.print(_table(results))
    _print_missing(results)
    for note in results.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    for path in paths.values():
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def _table(results: BenchResults) -> Table:
    count = len(results.prompts)
    shown = [one for one in results.measures if one.missing is None]
    table = Table(title=f"{count} prompt{'s' if count > 1 else ''}, {results.steps} steps", title_justify="left")
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
