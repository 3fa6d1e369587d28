"""In-process workers that behave as remote ones: pickled tasks, named pipelines, deaths."""

from __future__ import annotations

import pickle
import random

from foreseer.scale.place import Place, RemotePool, WorkerLost
from foreseer.scale.worker import Worker, about_this_process, answer


class Loopback(Place):
    """``workers`` workers that answer in a random order; the requests numbered in ``deaths`` kill theirs.

    Attributes:
        requests: how many units were sent.
    """

    def __init__(self, workers=2, deaths=(), seed=0):
        super().__init__()
        self.workers, self.deaths, self.requests = workers, {*deaths}, 0
        self.random = random.Random(seed)

    def make_pool(self):
        return LoopbackPool(self)


class LoopbackPool(RemotePool):
    def __init__(self, place):
        super().__init__(place.workers)
        self.place, self.workers, self.pending = place, {}, []

    def send(self, worker, unit):
        self.place.requests += 1
        self.pending.append((worker, unit, self.request(worker, unit), self.place.requests in self.place.deaths))

    def receive(self, seconds):
        worker, unit, request, dies = self.pending.pop(self.place.random.randrange(len(self.pending)))
        if unit is None:
            return self.started(worker, about_this_process())
        if dies:
            self.drop(worker)
            return WorkerLost(worker, "simulated")
        state, tasks = self.workers[worker]
        return self.answered(worker, unit, answer(state, tasks, pickle.loads(pickle.dumps(request))))

    def drop(self, worker):
        state, _ = self.workers.pop(worker, (Worker(), {}))
        state.leave()
        self.pending = [entry for entry in self.pending if entry[0] != worker]
        self.forget(worker)

    def restart(self, worker):
        self.drop(worker)
        self.workers[worker] = Worker(), {}
        self.pending.append((worker, None, None, False))
        self.starting.add(worker)

    def close(self):
        for worker in [*self.workers]:
            self.drop(worker)
