"""Tables made from results: the register, and the functions that every table uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Row = Mapping[str, Any]
MISSING = "-"


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        results: names of the results it is made from.
        make: from their rows to the table's lines, the header first.
    """

    results: tuple[str, ...]
    make: Callable[..., list[list[str]]]

    def render(self) -> str:
        """The table in Markdown."""
        header, *lines = self.make(*(rows_of(name) for name in self.results))
        return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


TABLES: dict[str, Table] = {}


def table(name: str, *results: str) -> Callable[[Callable[..., list[list[str]]]], Callable[..., list[list[str]]]]:
    """Register a function as the table ``name`` of ``results``."""

    def register(make: Callable[..., list[list[str]]]) -> Callable[..., list[list[str]]]:
        TABLES[name] = Table(results, make)
        return make

    return register


def rows_of(result: str) -> list[Row]:
    """The rows of ``results/NAME.json``."""
    return json.loads((RESULTS / f"{result}.json").read_text())["rows"]


def named(rows: Sequence[Row], name: str, key: str = "method") -> Row:
    """The row of that name; an empty one where a result lacks it."""
    return next((row for row in rows if row[key] == name), {})


def decimals(value: Any, places: int = 1) -> str:
    """A number with that many decimals; a dash for none."""
    return MISSING if value is None else f"{value:.{places}f}"
