"""A pool whose clock is simulated: units take the time that they are said to take, and none passes."""

from __future__ import annotations

import heapq

from foreseer.scale.place import Answered, Pool, WorkerLost, WorkerReady


class SimulatedPool(Pool):
    """Workers that need ``seconds[unit name]`` for a unit; ``deaths`` are times at which workers die.

    Attributes:
        busy: by worker, seconds of work that gave a result.
        now: seconds since the beginning.
        sent: every unit that was sent, in order.
    """

    def __init__(self, size, seconds, deaths=()):
        super().__init__(size)
        self.seconds, self.now, self.sent = seconds, 0.0, []
        self.busy = dict.fromkeys(range(size), 0.0)
        self._events = [(time, -1, worker, "death") for time, worker in deaths]
        self._count, self._units = 0, {}
        heapq.heapify(self._events)

    def _later(self, seconds, worker, what):
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, worker, what))

    def begin(self, task, workers):
        for worker in range(min(workers, self.size)):
            self._later(0.0, worker, "ready")

    def send(self, worker, unit):
        self.sent.append(unit.name)
        self._units[worker] = unit
        self._later(self.seconds[unit.name], worker, unit)

    def receive(self, seconds):
        self.now, _, worker, what = heapq.heappop(self._events)
        if what == "ready":
            return self.started(worker, {})
        if what == "death":
            self._units.pop(worker, None)
            self.forget(worker)
            return WorkerLost(worker, "simulated")
        if self._units.get(worker) is not what:
            return None
        del self._units[worker]
        self.busy[worker] += self.seconds[what.name]
        return Answered(worker, what.name.encode())

    def drop(self, worker):
        self.forget(worker)

    def restart(self, worker):
        self._later(1.0, worker, "ready")

    def close(self):
        pass


__all__ = ["SimulatedPool", "WorkerReady"]
