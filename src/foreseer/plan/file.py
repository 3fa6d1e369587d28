"""Plans as files."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np

from foreseer.errors import ForeseerError, PlanFileError
from foreseer.files import Artifact, checksum, read_json, read_names, read_strings, reason
from foreseer.grid import Grid
from foreseer.plan.mixing import mixing_arrays, read_mixing

if TYPE_CHECKING:
    from foreseer.plan.plan import Plan

PLAN_FILE = Artifact(
    "plan",
    # 2: branches may compute at different steps and use one another's features; 3: channel mixing; 4: rows of parts;
    # 5: weights of the first sample
    version=5,
    arrays={
        "noise_levels": (np.float64, "T"),
        "computed_steps": (np.int64, "N"),
        "rows": (np.float64, "T T"),
        "branch_rows": (np.float64, "B T T"),
        "cross_rows": (np.float64, "C T T"),
        "part_rows": (np.float64, "P T T"),
        "start_row": (np.float64, "T"),
        "mixing_shares": (np.float64, "G T"),
        "mixing_sources": (np.int64, "M S"),
        "mixing_matrices": (np.float32, "M D D"),
    },
    optional=(
        "branch_rows",
        "cross_rows",
        "part_rows",
        "start_row",
        "mixing_shares",
        "mixing_sources",
        "mixing_matrices",
    ),
    metadata=("unit", "final_level", "site", "provenance"),
    error=PlanFileError,
    most_bytes=256 * 2**20,  # a plan of 2000 steps, with rows for three branches, takes half of it
)


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write ``plan``.

    Raises:
        PlanFileError: the file cannot be written.
    """
    arrays, metadata = _content(plan)
    PLAN_FILE.save(path, arrays, metadata)


def encode_plan(plan: Plan) -> bytes:
    """Return the bytes of a plan file."""
    arrays, metadata = _content(plan)
    return PLAN_FILE.encode(arrays, metadata, "the plan")


def digest_of(plan: Plan) -> str:
    """Return the SHA-256 of everything that the plan's file holds."""
    return checksum(*_content(plan))


def _content(plan: Plan) -> tuple[dict[str, np.ndarray], dict[str, str]]:
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
    if plan.cross_rows:
        arrays["cross_rows"] = np.stack(list(plan.cross_rows.values()))
        metadata["crossing"] = json.dumps(list(plan.cross_rows))
    if plan.part_rows:
        arrays["part_rows"] = np.stack(list(plan.part_rows.values()))
        metadata["parts"] = json.dumps(list(plan.part_rows))
    if plan.start_row is not None:
        arrays["start_row"] = plan.start_row
    if plan.mixing is not None:
        of_mixing, metadata["mixing"] = mixing_arrays(plan.mixing, len(plan.grid))
        arrays |= of_mixing
    return arrays, metadata


def load_plan(path: str | os.PathLike[str], kind: type[Plan]) -> Plan:
    """Read a plan and check every one of its invariants; ``kind`` is the class to make."""
    arrays, metadata = PLAN_FILE.load(path)
    return _plan_of(arrays, metadata, os.fspath(path), kind)


def decode_plan(content: bytes, kind: type[Plan], name: str) -> Plan:
    """Read and validate the bytes of a plan file; messages call it ``name``."""
    arrays, metadata = PLAN_FILE.decode(content, name)
    return _plan_of(arrays, metadata, name, kind)


def _plan_of(arrays: dict[str, np.ndarray], metadata: dict[str, str], name: str, kind: type[Plan]) -> Plan:
    try:
        grid = Grid(arrays["noise_levels"], metadata["unit"], float(metadata["final_level"]))  # pyright: ignore[reportArgumentType]
        if arrays["computed_steps"].size > len(grid):
            raise ValueError(f"{arrays['computed_steps'].size} steps compute of {len(grid)}")
        provenance = read_strings(metadata["provenance"])
        steps = tuple(arrays["computed_steps"].tolist())
        of_branches = dict(zip(read_names(metadata.get("branches", "[]")), arrays.get("branch_rows", ()), strict=True))
        crossing = _read_pairs(metadata.get("crossing", "[]"))
        cross = dict(zip(crossing, arrays.get("cross_rows", ()), strict=True))
        of_parts = dict(zip(read_names(metadata.get("parts", "[]")), arrays.get("part_rows", ()), strict=True))
        mixed = "mixing" in metadata or any(name.startswith("mixing_") for name in arrays)
        mixing = read_mixing(arrays, read_json(metadata.get("mixing", "null"))) if mixed else None
        own = of_branches, cross, mixing, of_parts, arrays.get("start_row")
        return kind(grid, steps, arrays["rows"], metadata["site"], provenance, *own)  # pyright: ignore[reportArgumentType]
    except (ForeseerError, ValueError) as error:
        raise PlanFileError(f"{name} does not hold a valid plan: {reason(error)}.") from error


def _read_pairs(text: str) -> list[tuple[str, str]]:
    """A JSON list of pairs of names, each there once.

    Raises:
        ValueError: it is something else.
    """
    pairs = read_json(text)
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("its crossing branches are no list of pairs")
    found = [(pair[0], pair[1]) for pair in pairs if all(isinstance(name, str) for name in pair)]
    if len(set(found)) < len(pairs):
        raise ValueError("its crossing branches are no pairs of names, each there once")
    return found
