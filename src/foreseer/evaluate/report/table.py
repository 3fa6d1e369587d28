"""Table of a bench: columns that have values, printed numbers, and the best of each budget."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from foreseer.evaluate.bench.results import BenchResults, Measure, Row, Spread

NOTHING = "–"
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Column:
    """Column of numbers.

    Attributes:
        key: name in files.
        title: title with the unit.
        value: function from a row to the value in SI base units.
        better: which direction is better, if either.
        scale: value that is printed as 1.
        decimals: printed decimals.
        spread: function from a row to median and extremes, if the value is a median.
    """

    key: str
    title: str
    value: Callable[[Row], float | None]
    better: Literal["higher", "lower"] | None = None
    scale: float = 1.0
    decimals: int = 0
    spread: Callable[[Row], Spread | None] | None = None

    def shown(self, value: float | None) -> str:
        """Format a value for printing."""
        if value is None or math.isnan(value):
            return NOTHING
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{value / self.scale:.{self.decimals}f}"

    def extremes(self, row: Row) -> str:
        """Format the lowest and highest value; empty without a spread."""
        spread = self.spread(row) if self.spread else None
        return f"{self.shown(spread.low)} to {self.shown(spread.high)}" if spread else ""

    @property
    def arrow(self) -> str:
        """Arrow in the direction that is better."""
        return {"higher": "↑", "lower": "↓", None: ""}[self.better]


@dataclass(frozen=True)
class Cell:
    """Cell of the table.

    Attributes:
        column: its column.
        value: number in SI base units.
        text: number as printed.
        extremes: lowest and highest value as printed.
        best: whether it is the best of its budget.
    """

    column: Column
    value: float | None
    text: str
    extremes: str
    best: bool = False


@dataclass(frozen=True)
class Line:
    """Row with its cells.

    Attributes:
        row: the results.
        cells: one per column.
        begins: whether it is the first of its budget.
    """

    row: Row
    cells: list[Cell]
    begins: bool

    @property
    def reference(self) -> bool:
        """Whether the row is the reference."""
        return self.row.method == "reference"

    @property
    def best(self) -> bool:
        """Whether any cell is the best of its budget."""
        return any(cell.best for cell in self.cells)


@dataclass(frozen=True)
class Table:
    """Columns that have values, and rows: the reference, then by budget, the largest first."""

    columns: list[Column]
    lines: list[Line]


def table_of(results: BenchResults) -> Table:
    """Lay the results of a bench out as a table."""
    rows = sorted(results.rows, key=_place)
    names = {measure.name for measure in results.measures}
    columns = [column for column in _all_columns(results.measures) if any(_has(column, row) for row in rows)]
    columns = [_fitted(column, rows, column.key in names) for column in columns]
    best = {column.key: _best(column, rows) for column in columns}
    lines = []
    for index, row in enumerate(rows):
        cells = []
        for column in columns:
            value = None if row.error else column.value(row)
            text = column.shown(value)
            is_best = value is not None and best[column.key].get(row.budget) == text
            cells.append(Cell(column, value, text, column.extremes(row), is_best))
        before = rows[index - 1] if index else None
        begins = before is not None and (before.budget != row.budget or before.method == "reference")
        lines.append(Line(row, cells, begins))
    return Table(columns, lines)


def untaken(results: BenchResults) -> list[tuple[str, str]]:
    """List title and reason of each measure that no row has."""
    return [
        (measure.title, measure.missing or "no row could be measured")
        for measure in results.measures
        if measure.missing or not any(_is_number(row.measures.get(measure.name)) for row in results.rows)
    ]


def _all_columns(measures: list[Measure]) -> list[Column]:
    def time(key: str, title: str, spread: Callable[[Row], Spread | None]) -> Column:
        return Column(key, title, lambda row: times.median if (times := spread(row)) else None, "lower", spread=spread)

    return [
        Column("nfe", "NFE", lambda row: row.nfe),
        Column("steps", "Steps", lambda row: row.steps or None),
        time("latency", "Denoising", lambda row: row.latency),
        time("end_to_end", "Whole call", lambda row: row.end_to_end),
        Column("speedup", "Speedup", lambda row: row.speedup, "higher"),
        Column("flops", "FLOPs", lambda row: row.flops, "lower"),
        Column("flops_speedup", "FLOPs speedup", lambda row: row.flops_speedup, "higher"),
        Column("peak_memory", "Peak memory", lambda row: row.peak_memory, "lower"),
        Column("extra_memory", "Extra memory", lambda row: row.extra_memory, "lower"),
        *(
            Column(measure.name, measure.title, lambda row, name=measure.name: row.measures.get(name), measure.better)
            for measure in measures
        ),
        Column("failed_open", "Failed open", lambda row: row.failed_open or None, "lower"),
    ]


def _fitted(column: Column, rows: list[Row], measure: bool) -> Column:
    """Choose unit and decimals by the column's values; the reference's perfect measures are ignored."""
    if measure and len(rows) > 1:
        rows = [row for row in rows if row.method != "reference"]
    values = [abs(value) for row in rows if not row.error and (value := column.value(row)) is not None]
    largest = max((value for value in values if math.isfinite(value)), default=0.0)
    whole = all(value == int(value) for value in values if math.isfinite(value))
    if column.key in ("latency", "end_to_end"):
        scale, unit = (1e-3, "ms") if 0 < largest < 1 else (1.0, "s")
        return replace(column, title=f"{column.title}, {unit}", scale=scale, decimals=_decimals(largest / scale))
    if column.key in ("flops", "peak_memory", "extra_memory"):
        scale, prefix = next(((scale, prefix) for scale, prefix in PREFIXES if largest >= scale), (1.0, ""))
        title = f"{column.title}, {prefix}B" if column.key != "flops" else f"{prefix}FLOPs"
        return replace(column, title=title, scale=scale, decimals=_decimals(largest / scale))
    if column.key in ("speedup", "flops_speedup"):
        return replace(column, decimals=2)
    if column.key in ("nfe", "steps", "failed_open"):
        return replace(column, decimals=0 if whole else 2)
    return replace(column, decimals=_decimals(largest))


def _decimals(largest: float) -> int:
    """Return the decimals that give the largest value four significant digits."""
    return min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest > 0 else 2


def _best(column: Column, rows: list[Row]) -> dict[int | None, str]:
    """Find the best printed value of each budget, if it differs from the next by more than noise."""
    by_budget: dict[int | None, list[Row]] = {}
    for row in rows:
        if column.better and row.budget is not None and _has(column, row):
            by_budget.setdefault(row.budget, []).append(row)
    best = {}
    for budget, group in by_budget.items():
        ranked = sorted(group, key=lambda row: column.value(row) or 0.0, reverse=column.better == "higher")
        first, text = ranked[0], column.shown(column.value(ranked[0]))
        others = [row for row in ranked[1:] if column.shown(column.value(row)) != text]
        if others and _differ(column, first, others[0]):
            best[budget] = text
    return best


def _differ(column: Column, first: Row, second: Row) -> bool:
    """Return whether two rows differ by more than noise, of times or of means over prompts."""
    if column.key in ("latency", "end_to_end", "speedup"):
        fast, slow = (row.end_to_end if column.key == "end_to_end" else row.latency for row in (first, second))
        return fast is None or slow is None or fast.high < slow.low
    pairs = zip(first.per_prompt.get(column.key, ()), second.per_prompt.get(column.key, ()), strict=False)
    differences = [a - b for a, b in pairs if a is not None and b is not None and math.isfinite(a - b)]
    if len(differences) < 3:
        return True
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return abs(statistics.fmean(differences)) > 2 * error


def _place(row: Row) -> tuple[bool, bool, int]:
    return row.method != "reference", row.budget is not None, -(row.budget or 0)


def _has(column: Column, row: Row) -> bool:
    return not row.error and _is_number(column.value(row))


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
