"""A bench's table: which columns have a value, how each is printed, and the best of each budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from foreseer.evaluate.results import BenchResults, Measure, Row, Spread

NOTHING = "–"
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        key: in files.
        title: with the unit.
        value: of a row, in SI base units.
        better: which way is better, where either is.
        scale: what a printed 1 stands for.
        decimals: printed.
        spread: of a row, where the value is a median.
    """

    key: str
    title: str
    value: Callable[[Row], float | None]
    better: Literal["higher", "lower"] | None = None
    scale: float = 1.0
    decimals: int = 0
    spread: Callable[[Row], Spread | None] | None = None

    def shown(self, value: float | None) -> str:
        """A value as it is printed."""
        if value is None or math.isnan(value):
            return NOTHING
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{value / self.scale:.{self.decimals}f}"

    def extremes(self, row: Row) -> str:
        """Lowest and highest as they are printed; empty where there are none."""
        spread = self.spread(row) if self.spread else None
        return f"{self.shown(spread.low)} to {self.shown(spread.high)}" if spread else ""

    @property
    def arrow(self) -> str:
        """Which way is better, as a sign."""
        return {"higher": "↑", "lower": "↓", None: ""}[self.better]


@dataclass(frozen=True)
class Cell:
    """A cell: the number, as it is printed, and whether it is the best of its budget."""

    column: Column
    value: float | None
    text: str
    extremes: str
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A row with its cells; ``begins`` where it is the first of its budget."""

    row: Row
    cells: list[Cell]
    begins: bool

    @property
    def reference(self) -> bool:
        """Whether every step was computed."""
        return self.row.method == "reference"

    @property
    def best(self) -> bool:
        """Whether any of its cells is the best of its budget."""
        return any(cell.best for cell in self.cells)


@dataclass(frozen=True)
class Table:
    """Columns that have a value, and the rows: the reference, then budget by budget, the largest first."""

    columns: list[Column]
    lines: list[Line]


def table_of(results: BenchResults) -> Table:
    """The table of a bench."""
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
    """Title and reason of each measure that no row has."""
    return [
        (measure.title, measure.missing or "no row has it")
        for measure in results.measures
        if measure.missing or not any(_known(row.measures.get(measure.name)) for row in results.rows)
    ]


def _all_columns(measures: list[Measure]) -> list[Column]:
    def time(key: str, title: str, spread: Callable[[Row], Spread | None]) -> Column:
        return Column(key, title, lambda row: found.median if (found := spread(row)) else None, "lower", spread=spread)

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
            Column(one.name, one.title, lambda row, name=one.name: row.measures.get(name), one.better)
            for one in measures
        ),
        Column("failed_open", "Failed open", lambda row: row.failed_open or None, "lower"),
    ]


def _fitted(column: Column, rows: list[Row], measure: bool) -> Column:
    """The column with the unit and decimals that suit its values; a perfect 1.000 of the reference costs no digit."""
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
    """So many that the largest value has four digits that count."""
    return min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest > 0 else 2


def _best(column: Column, rows: list[Row]) -> dict[int | None, str]:
    """The best value of each budget as it is printed, where at least two rows differ."""
    found: dict[int | None, list[float]] = {}
    for row in rows:
        value = column.value(row)
        if column.better and row.budget is not None and _has(column, row) and value is not None:
            found.setdefault(row.budget, []).append(value)
    choose = max if column.better == "higher" else min
    return {
        budget: column.shown(choose(values))
        for budget, values in found.items()
        if len({column.shown(value) for value in values}) > 1
    }


def _place(row: Row) -> tuple[bool, bool, int]:
    return row.method != "reference", row.budget is not None, -(row.budget or 0)


def _has(column: Column, row: Row) -> bool:
    return not row.error and _known(column.value(row))


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
