"""The queue and the one thread that draws, several pictures at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from examples.serve.asked import Asked
from examples.serve.draw import CancelledError, Drawn, Painter, Sketch
from examples.serve.metrics import Metrics

log = logging.getLogger("examples.serve")


class FullError(Exception):
    """The queue is full.

    Attributes:
        retry_after: seconds until there is likely to be room.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The queue is full: try again in {retry_after} s.")
        self.retry_after = retry_after


class Job:
    """A request, and its picture to come."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.drawn: Future[Drawn] = Future()
        self.cancelled = threading.Event()
        self.since = self.begun = time.monotonic()
        self.sketch: Sketch | None = None


class Worker:
    """One thread, one painter, one bounded queue.

    In each turn all pictures on the way take one step; a request joins as soon as there is room.

    Args:
        painter: what draws; used by this thread only.
        most: how many may wait.
        together: how many are drawn side by side.
        metrics: where it counts.
    """

    def __init__(self, painter: Painter, most: int, together: int, metrics: Metrics) -> None:
        self._painter, self._most, self._together, self._metrics = painter, most, together, metrics
        self._waiting: deque[Job] = deque()
        self._live: list[Job] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._mean_seconds = 1.0
        self._thread = threading.Thread(target=self._work, name="painter", daemon=True)
        metrics.queue_length.set_function(lambda: len(self._waiting))

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def submit(self, asked: Asked) -> Job:
        """Put a request in the queue.

        Raises:
            FullError: there is no room, or the worker has stopped.
        """
        with self._changed:
            if self._stopped or len(self._waiting) >= self._most:
                raise FullError(max(1, round(self._mean_seconds * (len(self._waiting) + 1))))
            job = Job(asked)
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Give up a request: out of the queue, or interrupted at its next step."""
        with self._changed:
            job.cancelled.set()
            if job in self._waiting:
                self._waiting.remove(job)
                job.drawn.cancel()

    def stop(self) -> None:
        """Interrupt what is drawn, give up what waits, and end the thread."""
        with self._changed:
            self._stopped = True
            left = [*self._waiting, *self._live]
            self._changed.notify()
        for job in left:
            self.cancel(job)
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._live or self._stopped)
                if not self._waiting and not self._live:
                    return
                arrived = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._room))]
                arrived = [job for job in arrived if job.drawn.set_running_or_notify_cancel()]
                self._live += arrived
            for job in arrived:
                job.begun = time.monotonic()
                self._try(job, self._begin)
            for job in [job for job in self._live if job.cancelled.is_set()]:
                self._end(job, CancelledError())
            self._turn()
            for job in [job for job in self._live if job.sketch is not None and job.sketch.done]:
                self._try(job, self._finish)

    @property
    def _room(self) -> int:
        return self._together - len(self._live)

    def _begin(self, job: Job) -> None:
        job.sketch = self._painter.begin(job.asked)

    def _turn(self) -> None:
        """Advance all pictures; where that fails, each by itself, so that no picture suffers from another."""
        jobs = [job for job in self._live if job.sketch is not None]
        if not jobs:
            return
        try:
            self._painter.turn([job.sketch for job in jobs if job.sketch is not None])
        except Exception:
            log.exception("A step failed; its pictures take it one by one.")
            for job in jobs:
                self._try(job, lambda job: self._painter.turn([job.sketch]))  # pyright: ignore[reportArgumentType]

    def _finish(self, job: Job) -> None:
        assert job.sketch is not None
        drawn = self._painter.finish(job.sketch)
        ended = time.monotonic()
        self._mean_seconds += 0.2 * ((ended - job.begun) / self._together - self._mean_seconds)
        self._metrics.drew(drawn, ended - job.begun, ended - job.since)
        self._live.remove(job)
        job.drawn.set_result(drawn)

    def _try(self, job: Job, action: Callable[[Job], None]) -> None:
        try:
            action(job)
        except Exception as error:
            log.exception("A picture could not be drawn.")
            self._end(job, error)

    def _end(self, job: Job, error: Exception) -> None:
        """Take a picture off, and answer its request with the error."""
        if job.sketch is not None:
            self._painter.drop(job.sketch)
        self._live.remove(job)
        job.drawn.set_exception(error)
