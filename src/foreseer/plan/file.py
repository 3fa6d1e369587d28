"""Plans as files."""

from __future__ import annotations

import json
import os

import numpy as np

from foreseer.errors import ForeseerError, PlanFileError
from foreseer.files import Artifact, read_names, read_words, reason
from foreseer.grid import Grid
from foreseer.plan.plan import Plan

PLAN_FILE = Artifact(
    "plan",
    version=1,
    arrays={
        "noise_levels": (np.float64, "T"),
        "computed_steps": (np.int64, "N"),
        "rows": (np.float64, "T T"),
        "branch_rows": (np.float64, "B T T"),
    },
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
        if arrays["computed_steps"].size > len(grid):
            raise ValueError(f"{arrays['computed_steps'].size} steps compute of {len(grid)}")
        provenance = read_words(metadata["provenance"])
        steps = tuple(arrays["computed_steps"].tolist())
        of_branches = dict(zip(read_names(metadata.get("branches", "[]")), arrays.get("branch_rows", ()), strict=True))
        return Plan(grid, steps, arrays["rows"], metadata["site"], provenance, of_branches)  # pyright: ignore[reportArgumentType]
    except (ForeseerError, ValueError) as error:
        raise PlanFileError(f"{os.fspath(path)} does not hold a valid plan: {reason(error)}.") from error
