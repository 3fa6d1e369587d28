"""Tasks for workers in tests: they do next to nothing, or die."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foreseer.errors import PlanError
from foreseer.scale import Task, Unit, Worker

DEATHS = "FORESEER_TEST_DEATHS"  # a folder with a file per prompt at whose next run the process dies


def units(count, **more):
    return [Unit(f"unit-{index:03d}", index, f"version 1, {index}", **more) for index in range(count)]


def total(results):
    """A sum in float64 that depends on the order of its terms."""
    sums = np.zeros(3)
    for result in results:
        sums += np.frombuffer(result)
    return sums.tobytes()


@dataclass(frozen=True)
class Numbers(Task):
    """Three numbers per unit. A unit in ``deadly`` kills its worker the first ``deaths`` times.

    Args:
        folder: where each attempt leaves a file.
        deadly: names of units.
        deaths: how often a deadly unit kills.
        seconds: duration of a unit.
    """

    folder: Path
    deadly: tuple[str, ...] = ()
    deaths: int = 1
    seconds: float = 0.0

    def run(self, worker: Worker, unit: Unit) -> bytes:
        attempts = len(list(self.folder.glob(f"{unit.name}.*")))
        (self.folder / f"{unit.name}.{attempts}.{os.getpid()}").touch()
        if unit.name in self.deadly and attempts < self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        return np.random.default_rng(unit.payload).lognormal(0, 8, 3).tobytes()


@dataclass(frozen=True)
class Raises(Task):
    """Raises for some units."""

    errors: dict[str, str] = field(default_factory=dict)

    def run(self, worker: Worker, unit: Unit) -> bytes:
        kind = self.errors.get(unit.name)
        if kind == "plan":
            raise PlanError("the steps do not fit; expected 2 or more.")
        if kind == "memory":
            raise RuntimeError("CUDA error: out of memory\nat layer 3")
        if kind == "memory, wrapped":
            try:
                raise RuntimeError("CUDA error: out of memory")
            except RuntimeError as error:
                raise PlanError("cannot draw this: out of memory") from error
        return str(os.getpid()).encode()


@dataclass(frozen=True)
class Held(Task):
    """Says which worker ran a unit, and how many units that worker ran before under the same home."""

    def run(self, worker: Worker, unit: Unit) -> bytes:
        count = worker.memory[unit.home] = worker.memory.get(unit.home, 0) + 1
        return f"{os.getpid()} {count}".encode()
