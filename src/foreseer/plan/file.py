"""Plans as safetensors files: arrays as arrays, everything else as string metadata."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.errors import ForeseerError, PlanFileError
from foreseer.grid import Grid
from foreseer.plan.plan import Plan

FORMAT = "foreseer.plan"
VERSION = 1
MOST_BYTES = 64 * 2**20  # a plan of 2000 steps takes half of it
_OWN_KEYS = ("format", "version", "unit", "final_level", "site", "provenance")


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write ``plan``; a reader sees the old file or the whole new one."""
    from safetensors.numpy import save

    arrays = {
        "noise_levels": np.ascontiguousarray(plan.grid.levels),
        "computed_steps": np.asarray(plan.computed_steps, dtype=np.int64),
        "rows": np.ascontiguousarray(plan.rows),
    }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "unit": plan.grid.unit,
        "final_level": repr(plan.grid.final_level),
        "site": plan.site,
        "provenance": json.dumps(dict(plan.provenance), sort_keys=True),
    }
    write_atomically(Path(path), save(arrays, metadata))


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan, refusing with one clear sentence whatever is not one."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise PlanFileError(f"{path} has {size} bytes; no plan is larger than {MOST_BYTES}.")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_format(metadata, path)
            arrays = {name: file.get_tensor(name) for name in ("noise_levels", "computed_steps", "rows")}
        return _plan_from(arrays, metadata)
    except PlanFileError:
        raise
    except ForeseerError as error:
        raise PlanFileError(f"{path} does not hold a valid plan: {error}") from error
    except OSError as error:
        raise PlanFileError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise PlanFileError(f"{path} is damaged or no plan: {type(error).__name__}: {error}.") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path``, then move it there.

    Raises:
        PlanFileError: the folder is missing, not writable or full; the old file is left as it was.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise PlanFileError(f"Cannot write {path}: {error.strerror or error}.") from error


def _check_format(metadata: dict[str, str], path: Path) -> None:
    if metadata.get("format") != FORMAT:
        raise PlanFileError(f"{path} is a safetensors file but no plan (its format is {metadata.get('format')!r}).")
    version = metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise PlanFileError(f"{path} has plan format {version!r}; this Foreseer reads up to {VERSION}: update it.")
    missing = [key for key in _OWN_KEYS if key not in metadata]
    if missing:
        raise PlanFileError(f"{path} lacks the metadata {', '.join(missing)}.")


def _plan_from(arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> Plan:
    for name, kind in (("noise_levels", np.float64), ("computed_steps", np.int64), ("rows", np.float64)):
        if arrays[name].dtype != kind:
            raise ValueError(f"{name} is {arrays[name].dtype}, expected {np.dtype(kind)}")
    grid = Grid(arrays["noise_levels"], metadata["unit"], float(metadata["final_level"]))
    provenance = json.loads(metadata["provenance"])
    if not isinstance(provenance, dict):
        raise ValueError("provenance is no dictionary")
    return Plan(grid, tuple(arrays["computed_steps"].tolist()), arrays["rows"], metadata["site"], provenance)
