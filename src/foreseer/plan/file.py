"""Plans as files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import numpy as np

from foreseer.errors import ForeseerError, PlanFileError
from foreseer.files import Artifact
from foreseer.grid import Grid
from foreseer.plan.plan import Plan

PLAN_FILE = Artifact(
    "plan",
    version=1,
    arrays={"noise_levels": np.float64, "computed_steps": np.int64, "rows": np.float64, "branch_rows": np.float64},
    optional=("branch_rows",),
    metadata=("unit", "final_level", "site", "provenance"),
    error=PlanFileError,
    most_bytes=256 * 2**20,  # a plan of 2000 steps, with rows for three branches, takes half of it
)


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write ``plan``."""
    arrays = {
        "noise_levels": plan.grid.levels,
        "computed_steps": np.asarray(plan.computed_steps, dtype=np.int64),
        "rows": plan.rows,
    }
    metadata = {
        "unit": plan.grid.unit,
        "final_level": repr(plan.grid.final_level),
        "site": plan.site,
        "provenance": json.dumps(dict(plan.provenance), sort_keys=True),
    }
    if plan.branch_rows:
        arrays["branch_rows"] = np.stack(list(plan.branch_rows.values()))
        metadata["branches"] = json.dumps(list(plan.branch_rows))
    PLAN_FILE.save(path, arrays, metadata)


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan and check every one of its invariants."""
    arrays, metadata = PLAN_FILE.load(path)
    try:
        grid = Grid(arrays["noise_levels"], metadata["unit"], float(metadata["final_level"]))  # pyright: ignore[reportArgumentType]
        provenance = read_words(metadata["provenance"])
        steps = tuple(arrays["computed_steps"].tolist())
        of_branches = _read_branches(metadata.get("branches", "[]"), arrays.get("branch_rows", ()))
        return Plan(grid, steps, arrays["rows"], metadata["site"], provenance, of_branches)  # pyright: ignore[reportArgumentType]
    except (ForeseerError, ValueError, TypeError, RecursionError) as error:
        raise PlanFileError(f"{os.fspath(path)} does not hold a valid plan: {error}") from error


def _read_branches(names: str, rows: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Rows by branch.

    Raises:
        ValueError: there are not as many names as matrices, or a name is there twice.
    """
    known = json.loads(names)
    if not isinstance(known, list) or len(known) != len(set(known)):
        raise ValueError("the branches are no list of names")
    return dict(zip(known, rows, strict=True))


def read_words(text: str) -> dict[str, str]:
    """A JSON object as a dictionary.

    Raises:
        ValueError: it is something else.
    """
    words = json.loads(text)
    if not isinstance(words, dict):
        raise ValueError("provenance is no dictionary")
    return words
