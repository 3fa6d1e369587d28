"""Tables made from results: the register, and the functions that every table uses."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from foreseer import zoo

# Another folder for a trial of the commands: `python -m benchmarks.figures --trial`.
_TRIAL = os.environ.get("FORESEER_RESULTS")
RESULTS = Path(_TRIAL or Path(__file__).parent / "results")
PICTURES = Path(_TRIAL or Path(__file__).parent.parent / "docs" / "_static")
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
        """The table in Markdown, with a line under it if it is unfinished or of an earlier bundled model."""
        if not all(is_made(name) for name in self.results):
            return "*Not measured yet: `make figures`.*"
        header, *lines = self.make(*(rows_of(name) for name in self.results))
        shown = [f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines]]
        dates = sorted({result(name)["date"] for name in self.results if is_outdated(name)})
        note = ["", f"*Measured on an earlier bundled model, {' and '.join(dates)}.*"] if dates else []
        if any(result(name).get("unfinished") for name in self.results):
            note += ["", "*The run is unfinished.*"]
        return "\n".join([*shown, *note])


TABLES: dict[str, Table] = {}


def table(name: str, *results: str) -> Callable[[Callable[..., list[list[str]]]], Callable[..., list[list[str]]]]:
    """Register a function as the table ``name`` of ``results``."""

    def register(make: Callable[..., list[list[str]]]) -> Callable[..., list[list[str]]]:
        TABLES[name] = Table(results, make)
        return make

    return register


def result(name: str) -> dict[str, Any]:
    """The content of ``results/NAME.json``."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def is_made(name: str) -> bool:
    """Whether ``results/NAME.json`` exists."""
    return (RESULTS / f"{name}.json").exists()


def rows_of(name: str) -> list[Row]:
    """The rows of ``results/NAME.json``."""
    return result(name)["rows"]


def commit() -> str:
    """The commit that the benchmarks run at."""
    head = ["git", "rev-parse", "HEAD"]
    return subprocess.run(head, cwd=Path(__file__).parent, check=True, capture_output=True, text=True).stdout.strip()


@cache
def bundled_digest() -> str:
    """The bundled model's weights, as the beginning of a SHA-256."""
    weights = zoo.path() / "transformer" / "diffusion_pytorch_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


def is_outdated(name: str) -> bool:
    """Whether a result was measured on another bundled model than today's."""
    return result(name).get("bundled_model", bundled_digest()) != bundled_digest()


def named(rows: Sequence[Row], name: str, key: str = "method") -> Row:
    """The row of that name; an empty one where a result lacks it."""
    return next((row for row in rows if row[key] == name), {})


def decimals(value: Any, places: int = 1) -> str:
    """A number with that many decimals; a dash for none."""
    return MISSING if value is None else f"{value:.{places}f}"
