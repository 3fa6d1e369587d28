"""Work in processes on this machine, one per GPU."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any

from foreseer.checks import check_count
from foreseer.errors import ScaleError
from foreseer.scale.place import Event, Place, Pool, RemotePool, WorkerLost
from foreseer.scale.unit import Unit
from foreseer.scale.worker_process import read_frame, write_frame

ENDING_SECONDS = 5.0


class Processes(Place):
    """Processes on this machine.

    Args:
        workers: how many; by default as many as the GPUs suffice for, and one where there is no GPU.
        gpus_per_worker: each worker sees that many GPUs of this machine, and no others.
        threads: CPU threads of torch in each worker; by default as many as this process has. Results are equal bit for
            bit only where the number of threads is.

    Raises:
        ScaleError: a number is not a count, or there are fewer GPUs than the workers ask for.
    """

    def __init__(
        self, workers: int | None = None, *, gpus_per_worker: int | None = None, threads: int | None = None
    ) -> None:
        super().__init__()
        for name, value in (("workers", workers), ("gpus_per_worker", gpus_per_worker), ("threads", threads)):
            if value is not None:
                check_count(name, value, ScaleError, least=1)
        self.workers, self.gpus_per_worker, self.threads = workers, gpus_per_worker, threads

    def make_pool(self) -> Pool:
        """A pool of processes that have not started."""
        gpus, each = visible_gpus(), self.gpus_per_worker or 1
        workers = self.workers or max(1, len(gpus) // each)
        if self.gpus_per_worker is not None and workers * each > len(gpus):
            raise ScaleError(
                f"{workers} workers with {each} GPUs each need {workers * each} GPUs; this machine shows {len(gpus)}."
            )
        shares = [gpus[first : first + each] for first in range(0, len(gpus) - each + 1, each)]
        return _ProcessPool(workers, shares, self.threads or torch_threads())


def torch_threads() -> int | None:
    """CPU threads of torch in this process; ``None`` where torch is not loaded."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    try:
        import torch
    except ImportError:
        return []
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]


class _Child:
    """One worker process, its output, and the thread that reads its replies."""

    def __init__(self, worker: int, gpus: list[str], threads: int | None, events: queue.SimpleQueue[Any]) -> None:
        self.worker, self.unit, self._events = worker, None, events
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        command = [sys.executable, "-m", "foreseer.scale.worker_process", str(threads or 0)]
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, content: Any) -> None:
        """Send a request; that the process is gone shows in what it answers."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            write_frame(self._process.stdin, pickle.dumps(content))

    def end(self) -> None:
        """Kill the process and wait for it. Files are written whole or not at all, so none is damaged."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._reader.join(ENDING_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError, AttributeError):
                stream.close()  # pyright: ignore[reportOptionalMemberAccess]

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while (frame := read_frame(self._process.stdout)) is not None:
                self._events.put((self, pickle.loads(frame)))  # noqa: S301 - from our own process
        with contextlib.suppress(OSError, ValueError):
            self._events.put((self, self._cause_of_death()))

    def _cause_of_death(self) -> str:
        """Exit code or signal, and the last line that the process wrote."""
        code = self._process.wait()
        ended = f"exit code {code}" if code >= 0 else _signal_name(-code)
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{ended}: {lines[-1].strip()}" if lines else ended


class _ProcessPool(RemotePool):
    def __init__(self, size: int, shares: list[list[str]], threads: int | None) -> None:
        super().__init__(size)
        self._shares, self._threads = shares, threads
        self._children: dict[int, _Child] = {}
        self._units: dict[int, Unit] = {}
        self._events: queue.SimpleQueue[tuple[_Child, Any]] = queue.SimpleQueue()

    def send(self, worker: int, unit: Unit) -> None:
        self._units[worker] = unit
        self._children[worker].send(self.request(worker, unit))

    def receive(self, seconds: float) -> Event | None:
        try:
            child, content = self._events.get(timeout=seconds)
        except queue.Empty:
            return None
        worker = child.worker
        if self._children.get(worker) is not child:
            return None  # it was dropped
        if isinstance(content, str):
            self.drop(worker)
            return WorkerLost(worker, content)
        if isinstance(content, dict):
            return self.started(worker, content)
        return self.answered(worker, self._units[worker], content)

    def drop(self, worker: int) -> None:
        child = self._children.pop(worker, None)
        if child is not None:
            child.end()
        self.forget(worker)

    def restart(self, worker: int) -> None:
        self.drop(worker)
        share = self._shares[worker % len(self._shares)] if self._shares else []
        self._children[worker] = _Child(worker, share, self._threads, self._events)
        self.starting.add(worker)

    def close(self) -> None:
        for worker in [*self._children]:
            self.drop(worker)


def _signal_name(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"
