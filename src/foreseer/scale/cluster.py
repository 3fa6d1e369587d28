"""Work on the machines of a Ray cluster, or on this one through Ray."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from foreseer.checks import check_count, check_number
from foreseer.errors import ScaleError, in_one_line
from foreseer.scale.place import Event, Place, Pool, RemotePool, WorkerLost
from foreseer.scale.processes import torch_threads
from foreseer.scale.unit import Task, Unit
from foreseer.scale.worker import Reply, UnitRequest, Worker, about_this_process, answer

CONNECT_SECONDS = 10.0  # until an address at which nothing answers is refused


class Ray(Place):
    """Workers as Ray actors, spread over the nodes of a cluster.

    Args:
        workers: how many; by default as many as the cluster has resources for.
        address: ``"host:port"`` of a cluster, ``"auto"`` for the one that runs on this machine, ``"local"`` for a new
            one on this machine; by default ``RAY_ADDRESS``, else the running one, else a new one.
        gpus_per_worker: GPUs of each worker, also fractions; by default one where the cluster has GPUs.
        cpus_per_worker: CPUs that each worker reserves.
        threads: CPU threads of torch in each worker; by default as many as this process has. Results are equal bit for
            bit only where the number of threads, and the kind of GPU, are.

    Raises:
        ScaleError: a number is not valid.
    """

    def __init__(
        self,
        workers: int | None = None,
        address: str | None = None,
        *,
        gpus_per_worker: float | None = None,
        cpus_per_worker: float = 1,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("workers", workers), ("threads", threads)):
            if value is not None:
                check_count(name, value, ScaleError, least=1)
        for name, value in (("gpus_per_worker", gpus_per_worker), ("cpus_per_worker", cpus_per_worker)):
            if value is not None:
                check_number(name, value, ScaleError)
        self.workers, self.address, self.threads = workers, address, threads
        self.gpus_per_worker, self.cpus_per_worker = gpus_per_worker, cpus_per_worker

    def make_pool(self) -> Pool:
        """Connect to the cluster; no worker has started.

        Raises:
            ScaleError: Ray is not installed, there is no cluster at the address, or it runs another version.
        """
        ray, owned = connected(self.address)
        resources = ray.cluster_resources()
        gpus = self.gpus_per_worker
        if gpus is None:
            gpus = 1 if resources.get("GPU", 0) >= 1 else 0
        fit = resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 1) / max(self.cpus_per_worker, 1e-3)
        options = {"num_cpus": self.cpus_per_worker, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        return _RayPool(ray, owned, self.workers or max(1, int(fit)), options, self.threads or torch_threads())


def connected(address: str | None) -> tuple[Any, bool]:
    """The module ``ray``, connected; and whether this call connected it.

    Raises:
        ScaleError: Ray is not installed, there is no cluster at the address, or it runs another version.
    """
    try:
        import ray
    except ImportError as error:
        raise ScaleError(f"Ray cannot be loaded ({in_one_line(error)}): pip install 'foreseer[ray]'.") from error
    if ray.is_initialized():
        return ray, False
    address = address or os.environ.get("RAY_ADDRESS") or None
    try:
        _check_reachable(address or "")
        dashboard: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **dashboard)
    except Exception as error:  # Ray raises many kinds, also for what a user can mend
        where = f"at {address!r}" if address is not None else "on this machine"
        raise ScaleError(
            f"Cannot use a Ray cluster {where}: {_first_sentences(error)} Start one with 'ray start --head', and "
            "join it from each machine with 'ray start --address=HOST:PORT', with the same Python and Ray on all; or "
            "leave the address out."
        ) from error
    return ray, True


def _check_reachable(address: str) -> None:
    """Raise unless something listens at ``HOST:PORT``.

    Ray itself would try for minutes, and then end this process.
    """
    host, _, port = address.rpartition(":")
    if port.isdigit() and "://" not in address:
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"nothing answers there ({in_one_line(error)})") from error


def _first_sentences(error: BaseException) -> str:
    """What Ray says, on one line and without its advice."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 300 else f"{text[:297]}...").rstrip(".") + "."


class RayWorker:
    """The actor: a worker, and the task that it has."""

    def __init__(self, threads: int | None) -> None:
        self._worker = Worker(threads)
        self._tasks: dict[str, Task] = {}

    def about(self) -> dict[str, str]:
        """Host, process and versions."""
        return about_this_process()

    def answer(self, request: UnitRequest) -> Reply:
        """Do one unit."""
        return answer(self._worker, self._tasks, request)


class _RayPool(RemotePool):
    """Actors that are never restarted by Ray: what was lost is handed out again here, as for processes."""

    def __init__(self, ray: Any, owned: bool, size: int, options: dict[str, Any], threads: int | None) -> None:
        super().__init__(size)
        self._ray, self._owned, self._threads = ray, owned, threads
        self._actor_class = ray.remote(RayWorker).options(max_restarts=0, max_task_retries=0, **options)
        self._actors: dict[int, Any] = {}
        self._expected: dict[Any, tuple[int, Unit | None]] = {}

    def send(self, worker: int, unit: Unit) -> None:
        reference = self._actors[worker].answer.remote(self.request(worker, unit))
        self._expected[reference] = worker, unit

    def receive(self, seconds: float) -> Event | None:
        if not self._expected:
            return None
        arrived, _ = self._ray.wait([*self._expected], num_returns=1, timeout=seconds)
        if not arrived:
            return None
        worker, unit = self._expected.pop(arrived[0])
        try:
            content = self._ray.get(arrived[0])
        except self._ray.exceptions.RayError as error:
            self.drop(worker)
            return WorkerLost(worker, _cause_of_death(error))
        if unit is None:
            return self.started(worker, content)
        return self.answered(worker, unit, content)

    def drop(self, worker: int) -> None:
        actor = self._actors.pop(worker, None)
        self._expected = {reference: entry for reference, entry in self._expected.items() if entry[0] != worker}
        if actor is not None:
            self._ray.kill(actor, no_restart=True)
        self.forget(worker)

    def restart(self, worker: int) -> None:
        self.drop(worker)
        self._actors[worker] = self._actor_class.remote(self._threads)
        self._expected[self._actors[worker].about.remote()] = worker, None
        self.starting.add(worker)

    def close(self) -> None:
        for worker in [*self._actors]:
            self.drop(worker)
        if self._owned:
            self._ray.shutdown()


def _cause_of_death(error: BaseException) -> str:
    """The sentence of Ray's long message that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    because = [line for line in lines if line.startswith(("The actor died because", "The actor is dead because"))]
    text = (because or lines or [type(error).__name__])[0]
    return text if len(text) <= 200 else f"{text[:197]}..."
