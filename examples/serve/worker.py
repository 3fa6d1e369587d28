"""The queue and the one thread that draws."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future

from examples.serve.asked import Asked
from examples.serve.draw import CancelledError, Drawn, Painter
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
        self.since = time.monotonic()


class Worker:
    """One thread, one painter, one bounded queue.

    Args:
        painter: what draws; used by this thread only.
        most: how many may wait.
        metrics: where it counts.
    """

    def __init__(self, painter: Painter, most: int, metrics: Metrics) -> None:
        self._painter, self._most, self._metrics = painter, most, metrics
        self._waiting: deque[Job] = deque()
        self._current: Job | None = None
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
            left = [*self._waiting, *([self._current] if self._current is not None else [])]
            self._changed.notify()
        for job in left:
            self.cancel(job)
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._current = None
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if not self._waiting:
                    return
                job = self._current = self._waiting.popleft()
            if job.drawn.set_running_or_notify_cancel():
                self._draw(job)

    def _draw(self, job: Job) -> None:
        began = time.monotonic()
        try:
            drawn = self._painter.draw(job.asked, job.cancelled.is_set)
        except CancelledError as error:
            job.drawn.set_exception(error)
        except Exception as error:
            log.exception("A picture could not be drawn.")
            job.drawn.set_exception(error)
        else:
            ended = time.monotonic()
            self._mean_seconds += 0.2 * (ended - began - self._mean_seconds)
            self._metrics.drew(drawn, ended - began, ended - job.since)
            job.drawn.set_result(drawn)
