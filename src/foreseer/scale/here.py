"""Work in this process, one unit after another."""

from __future__ import annotations

from foreseer.errors import in_one_line
from foreseer.scale.place import Answered, Event, Place, Pool
from foreseer.scale.unit import Failure, Task, Unit
from foreseer.scale.worker import Worker, about_this_process


class Here(Place):
    """This process: units run in their order, pipelines may be objects."""

    def make_pool(self) -> Pool:
        """A pool of one worker."""
        return _HerePool()


class _HerePool(Pool):
    def __init__(self) -> None:
        super().__init__(1)
        self._worker = Worker()
        self._task: Task | None = None
        self._event: Event | None = None

    def begin(self, task: Task, workers: int) -> None:
        self._worker.leave()
        self._task = task
        if not self.ready:
            self._event = self.started(0, about_this_process())

    def send(self, worker: int, unit: Unit) -> None:
        assert self._task is not None
        try:
            self._event = Answered(worker, self._task.run(self._worker, unit))
        except Exception as error:  # noqa: BLE001 - the job raises or keeps it
            self._event = Answered(worker, failure=Failure(unit.name, in_one_line(error), self.place_of(0), error))

    def receive(self, seconds: float) -> Event | None:
        event, self._event = self._event, None
        return event

    def drop(self, worker: int) -> None:
        self._worker.leave()
        self._worker.memory.clear()
        self.forget(worker)

    def restart(self, worker: int) -> None:
        self._event = self.started(0, about_this_process())

    def close(self) -> None:
        self.drop(0)
