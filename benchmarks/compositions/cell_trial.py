"""The checks of one cell, in as many processes as it has."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.profiler import ProfilerActivity, profile

from benchmarks.compositions.composed import Cell, Composed, NotHereError
from benchmarks.sweep.fixtures import same
from benchmarks.sweep.trial import check, policy, run_plain
from foreseer.attach.accelerate import accelerate
from foreseer.errors import ForeseerError, in_one_line

WAIT = 120  # seconds that a process waits for the others


def try_cell(cell: Cell) -> dict[str, Any]:
    """Everything that was seen of one cell."""
    began = time.perf_counter()
    ranks = cell.composition.ranks
    seen = _in_ranks(cell, ranks) if ranks > 1 else _try(cell)
    return {**seen, "seconds": round(time.perf_counter() - began, 1)}


def _try(cell: Cell) -> dict[str, Any]:
    seen: dict[str, Any] = {**cell.about, "outcome": "unknown"}
    try:
        bare = cell.bare().run()
        built = cell.composed()
        plain = run_plain(built, seen)
    except NotHereError as error:
        return {**seen, "outcome": "not here", "reason": str(error)}
    except BaseException as error:  # noqa: BLE001 - without Foreseer: whatever it raises is the result
        return {**seen, "outcome": "not here", "reason": in_one_line(error)[:400]}
    check(built, plain, seen, cell.composition.sites)
    # A latent and a decoded picture, or one picture and three, are not compared.
    alike = [a.shape for a in bare] == [b.shape for b in built.run()]
    seen["distance from bare"] = _distance(plain, bare) if alike else None
    if cell.composition.late and seen["sites"]["output"]["outcome"] != "refused":
        seen["while attached"] = _while_attached(cell, built)
    if cell.composition.ranks > 1:
        if not _collectives(built):
            return {**seen, "outcome": "not here", "reason": "the processes exchange nothing"}
        with accelerate(built.pipe, policy("output", 2)):
            seen["digest"] = _digest(built.run())
    return seen


def _collectives(built: Composed) -> int:
    """How often a run exchanges tensors between processes."""
    with profile(activities=[ProfilerActivity.CPU]) as events:
        built.run()
    return sum(each.count for each in events.key_averages() if each.key.startswith("c10d::"))


def _while_attached(cell: Cell, composed: Composed) -> dict[str, str]:
    """Put the composition in after attaching and a run; compare the next runs."""
    outcomes = {}
    for site in cell.composition.sites:
        try:
            with accelerate(composed.pipe, policy(site, 2)):
                expected = composed.run()
            bare = cell.bare()
            with accelerate(bare.pipe, policy(site, 2)) as handle:
                bare.options = composed.options
                bare.run()
                cell.composition.change(bare)
                equal = [same(bare.run(), expected) for _ in range(2)]
                failed = sorted({each.reason for each in handle.record.failed_open}) if handle.record else []
            served = "as planned" if not failed else f"fails open: {failed[0]}"[:300]
            outcomes[site] = served if all(equal) else f"other bits: {equal}"
        except ForeseerError as error:
            outcomes[site] = f"refused: {in_one_line(error)}"[:300]
        except Exception as error:  # noqa: BLE001 - a crash is a result too
            outcomes[site] = f"crash: {in_one_line(error)}"[:300]
    return outcomes


def _distance(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest value."""
    largest = max(float(np.abs(each).max()) for each in second)
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True)) / largest


def _digest(arrays: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(each.tobytes() for each in arrays)).hexdigest()[:16]


def _in_ranks(cell: Cell, world: int) -> dict[str, Any]:
    """Try the cell in a group of processes; the result of rank 0, and whether all agree."""
    with tempfile.TemporaryDirectory() as folder:
        for child in _fork(cell, world, Path(folder)):
            os.waitpid(child, 0)
        files = [Path(folder) / f"{rank}.json" for rank in range(world)]
        seen = [json.loads(file.read_text()) if file.exists() else {"outcome": "died"} for file in files]
    agree = all(_comparable(each) == _comparable(seen[0]) for each in seen)
    return {**cell.about, **seen[0], "ranks agree": agree}


def _comparable(seen: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in seen.items() if name != "seconds"}


def _fork(cell: Cell, world: int, folder: Path) -> list[int]:
    """Processes that each try the cell and write what they saw."""
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
            torch.set_num_threads(1)
            distributed.init_process_group(
                "gloo",
                init_method=(folder / "store").as_uri(),
                rank=rank,
                world_size=world,
                timeout=datetime.timedelta(seconds=WAIT),
            )
            (folder / f"{rank}.json").write_text(json.dumps(_try(cell), default=str))
            os._exit(0)
        children.append(child)
    return children
