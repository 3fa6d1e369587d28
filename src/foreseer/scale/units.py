"""Handing units to workers, until every unit has a result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

from foreseer.errors import ScaleError
from foreseer.scale.place import Answered, Pool, WorkerLost, WorkerReady
from foreseer.scale.unit import Failure, Task, Unit
from foreseer.scale.unit_store import MemoryStore, Store

ATTEMPTS = 3  # of a unit whose workers are lost
PATIENCE = 600.0  # seconds without a single worker

Progress = Callable[[int, int, str], None]


def run_units(
    pool: Pool,
    task: Task,
    units: Sequence[Unit],
    *,
    store: Store | None = None,
    progress: Progress | None = None,
    on_failure: Literal["raise", "keep"] = "raise",
    patience: float = PATIENCE,
) -> list[bytes | Failure]:
    """Run the units that have no stored result, and return all results in the order of ``units``.

    The order of the results does not depend on the place, on which worker did what, or on workers that were lost; sums
    over them are therefore equal bit for bit. A unit whose worker is lost is given to another one, at most three times.

    Args:
        pool: of a place, from :meth:`foreseer.scale.Place.pool`.
        task: what is done with each unit.
        units: unique by name.
        store: where results are found and kept; by default only in memory.
        progress: called with units done, units in all, and a short state.
        on_failure: raise the error of the first unit that fails, or keep it as its result and go on.
        patience: seconds to wait for a first worker.

    Raises:
        ScaleError: a unit's workers were lost three times, or no worker starts.
        ForeseerError: the task raised it, with ``on_failure="raise"``.
    """
    if len({unit.name for unit in units}) < len(units):
        raise ScaleError("Two units have the same name.")
    job = _Job(pool, task, units, store or MemoryStore(), progress or (lambda done, total, state: None))
    job.keep_failures = on_failure == "keep"
    job.patience = patience
    return job.run()


class _Job:
    """One call of :func:`run_units`."""

    keep_failures = False
    patience = PATIENCE

    def __init__(self, pool: Pool, task: Task, units: Sequence[Unit], store: Store, progress: Progress) -> None:
        self._pool, self._task, self._units = pool, task, units
        self._store, self._progress = store, progress
        self._results: dict[str, bytes | Failure] = {}
        self._waiting: list[Unit] = []
        self._running: dict[int, Unit] = {}
        self._losses: dict[str, int] = {}
        self._failed, self._failed_starts = 0, 0

    def run(self) -> list[bytes | Failure]:
        """Run until every unit has a result."""
        for unit in self._units:
            result = self._store.get(unit)
            if result is None:
                self._waiting.append(unit)
            else:
                self._results[unit.name] = result
        self._waiting.sort(key=lambda unit: -unit.cost)  # stable
        self._show()
        if self._waiting:
            try:
                self._pool.begin(self._task, len(self._waiting))
                self._hand_out()
                self._work()
            except BaseException:
                for worker in self._running:
                    self._pool.drop(worker)
                raise
        return [self._results[unit.name] for unit in self._units]

    def _work(self) -> None:
        since = time.monotonic()
        while self._waiting or self._running:
            event = self._pool.receive(1.0)
            if self._pool.ready:
                since = time.monotonic()
            elif time.monotonic() - since > self.patience:
                raise ScaleError(
                    f"No worker started within {self.patience:.0f} seconds: are there machines with what each worker "
                    "asks for (--gpus-per-worker)?"
                )
            if isinstance(event, WorkerReady):
                self._failed_starts = 0
            elif isinstance(event, Answered):
                self._answered(event)
            elif isinstance(event, WorkerLost):
                self._lost(event.worker, event.reason)
            if event is not None:
                self._hand_out()

    def _hand_out(self) -> None:
        """Give each free worker the first waiting unit whose home is there or nowhere."""
        for worker in sorted(self._pool.ready - self._running.keys()):
            homes = self._pool.homes
            unit = next((unit for unit in self._waiting if homes.get(unit.home or "", worker) == worker), None)
            if unit is None:
                continue
            self._waiting.remove(unit)
            if unit.home is not None:
                homes[unit.home] = worker
            self._running[worker] = unit
            self._pool.send(worker, unit)

    def _answered(self, event: Answered) -> None:
        failure = event.failure
        if failure is not None and failure.worker_lost:
            self._pool.drop(event.worker)
            self._lost(event.worker, failure.reason, failure)
            return
        unit = self._running.pop(event.worker)
        if failure is not None:
            self._fail(unit, failure)
        else:
            assert event.result is not None
            self._store.put(unit, event.result)
            self._results[unit.name] = event.result
            self._show()

    def _lost(self, worker: int, reason: str, failure: Failure | None = None) -> None:
        """Give the unit of a lost worker to another one, and start a worker in its place."""
        self._pool.forget(worker)
        unit = self._running.pop(worker, None)
        if unit is None:
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS and not self._pool.ready:
                raise ScaleError(f"Workers do not start: {reason}")
        else:
            self._losses[unit.name] = self._losses.get(unit.name, 0) + 1
            if self._losses[unit.name] >= ATTEMPTS:
                text = f"its worker was lost {ATTEMPTS} times, the last time: {reason}"
                self._fail(unit, failure or Failure(unit.name, text, self._pool.place_of(worker)))
            else:
                self._waiting.insert(0, unit)
        if len(self._waiting) > len(self._pool.ready - self._running.keys()):
            self._pool.restart(worker)

    def _fail(self, unit: Unit, failure: Failure) -> None:
        if not self.keep_failures:
            if failure.error is not None:
                raise failure.error
            raise ScaleError(f"Unit {unit.name} failed ({failure.place}): {failure.reason}")
        self._results[unit.name] = failure
        self._failed += 1
        self._show()

    def _show(self) -> None:
        lost = sum(self._losses.values())
        parts = [f"{self._failed} failed" if self._failed else "", f"{lost} workers lost" if lost else ""]
        self._progress(len(self._results), len(self._units), ", ".join(filter(None, parts)))
