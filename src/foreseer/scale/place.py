"""Places, which start workers, and pools, which are workers that have started."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from foreseer.errors import ScaleError
from foreseer.scale.unit import Failure, Task, Unit
from foreseer.scale.worker import Reply, UnitRequest, raised_again

SAME_ON_ALL = ("foreseer", "torch", "diffusers", "transformers", "numpy", "python")


@dataclass(frozen=True)
class WorkerReady:
    """A worker has started; ``about`` names its host, process and versions."""

    worker: int
    about: Mapping[str, str]


@dataclass(frozen=True)
class Answered:
    """A worker finished its unit: with a result, or with a failure."""

    worker: int
    result: bytes | None = field(default=None, repr=False)
    failure: Failure | None = None


@dataclass(frozen=True)
class WorkerLost:
    """A worker died, with its unit if it had one."""

    worker: int
    reason: str


Event = WorkerReady | Answered | WorkerLost


class Pool(ABC):
    """Workers, each with at most one unit at a time. They start when the first task begins.

    Attributes:
        size: how many workers there are to be.
        ready: numbers of the workers that have started and were not lost.
        about: by worker, its host, process and versions.
        homes: by a unit's ``home``, the worker that holds what such units need.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.ready: set[int] = set()
        self.about: dict[int, Mapping[str, str]] = {}
        self.homes: dict[str, int] = {}

    @abstractmethod
    def begin(self, task: Task, workers: int) -> None:
        """Take a task for the units that follow, and start workers until there are ``workers``."""

    @abstractmethod
    def send(self, worker: int, unit: Unit) -> None:
        """Give a unit to a worker that is ready and has none."""

    @abstractmethod
    def receive(self, seconds: float) -> Event | None:
        """The next event; ``None`` where none comes within ``seconds``.

        Raises:
            ScaleError: a worker has other versions than the first one.
        """

    @abstractmethod
    def drop(self, worker: int) -> None:
        """End a worker, whatever it does. :meth:`begin` or :meth:`restart` starts another under its number."""

    @abstractmethod
    def restart(self, worker: int) -> None:
        """Start a worker that was dropped or lost."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def place_of(self, worker: int) -> str:
        """Host and process of a worker, for messages."""
        about = self.about.get(worker, {})
        return f"process {about.get('process', '?')} on {about.get('host', '?')}"

    def started(self, worker: int, about: Mapping[str, str]) -> WorkerReady:
        """Note that a worker has started.

        Raises:
            ScaleError: its versions differ from the first worker's, so that results would not be equal.
        """
        first = next(iter(self.about.values()), about)
        other = [name for name in SAME_ON_ALL if first.get(name) != about.get(name)]
        if other:
            differences = ", ".join(f"{name} {about.get(name)} and {first.get(name)}" for name in other)
            raise ScaleError(
                f"The workers on {about.get('host')} and {first.get('host')} differ ({differences}): install the same "
                "versions everywhere."
            )
        self.about[worker] = about
        self.ready.add(worker)
        return WorkerReady(worker, about)

    def forget(self, worker: int) -> None:
        """Note that a worker, and what it held, is gone."""
        self.ready.discard(worker)
        self.homes = {home: holder for home, holder in self.homes.items() if holder != worker}


class RemotePool(Pool):
    """A pool whose tasks and units are pickled on their way to a worker.

    Attributes:
        starting: numbers of the workers that have been started and are not ready.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._task = b""
        self._tasks = 0
        self._has: dict[int, int] = {}
        self.starting: set[int] = set()

    def begin(self, task: Task, workers: int) -> None:
        """Pickle the task, once."""
        self._task = pickle.dumps(task)
        self._tasks += 1
        for worker in range(min(workers, self.size)):
            if worker not in self.ready | self.starting:
                self.restart(worker)

    def started(self, worker: int, about: Mapping[str, str]) -> WorkerReady:
        """Note that a worker has started."""
        self.starting.discard(worker)
        return super().started(worker, about)

    def request(self, worker: int, unit: Unit) -> UnitRequest:
        """The request for a unit; the task goes with the first one only."""
        task = None if self._has.get(worker) == self._tasks else self._task
        self._has[worker] = self._tasks
        return UnitRequest(unit, str(self._tasks), task)

    def forget(self, worker: int) -> None:
        """Note that a worker is gone, with its task."""
        super().forget(worker)
        self.starting.discard(worker)
        self._has.pop(worker, None)

    def answered(self, worker: int, unit: Unit, reply: Reply) -> Answered:
        """A reply as an event."""
        if reply.result is not None:
            return Answered(worker, reply.result)
        error, place = raised_again(reply), self.place_of(worker)
        return Answered(worker, failure=Failure(unit.name, reply.reason, place, error, reply.worker_lost))


class Place(ABC):
    """Where work runs.

    A function that takes ``workers=`` starts the workers and ends them. Used as a context manager, a place keeps them,
    with the pipelines that they loaded, for all calls in the block.
    """

    def __init__(self) -> None:
        self._pool: Pool | None = None

    @abstractmethod
    def make_pool(self) -> Pool:
        """A pool whose workers have not started."""

    @contextmanager
    def pool(self) -> Iterator[Pool]:
        """The pool of the block that this place was entered for, else one that is closed afterwards."""
        if self._pool is not None:
            yield self._pool
            return
        pool = self.make_pool()
        try:
            yield pool
        finally:
            pool.close()

    @contextmanager
    def kept(self) -> Iterator[Place]:
        """This place, entered for a block unless it has been entered before."""
        if self._pool is not None:
            yield self
            return
        with self:
            yield self

    def __enter__(self) -> Place:
        if self._pool is not None:
            raise ScaleError(f"This {type(self).__name__} place is in use: enter it once, or make another.")
        self._pool = self.make_pool()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
