"""What a worker holds between units, and how it answers a request."""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from foreseer import __version__
from foreseer.errors import ForeseerError, in_one_line
from foreseer.scale.model import AnyModel
from foreseer.scale.unit import Task, Unit

PACKAGES = ("torch", "diffusers", "transformers", "numpy")
# After these the process cannot be trusted: CUDA errors and lost memory come as RuntimeError.
UNTRUSTED = (RuntimeError, MemoryError, OSError)


@dataclass
class Worker:
    """One process with its pipeline and what tasks keep in it.

    Attributes:
        threads: CPU threads of torch; ``None`` leaves them as they are.
        memory: what a task keeps between units, by key; emptied when another model is loaded.
    """

    threads: int | None = None
    memory: dict[Any, Any] = field(default_factory=dict)
    _model: AnyModel | None = None
    _pipeline: tuple[Any, dict[str, Any]] | None = None
    _entered: tuple[contextlib.ExitStack, Any] | None = None

    def pipeline(self, model: AnyModel) -> tuple[Any, dict[str, Any]]:
        """The pipeline of a model and the options that its folder gives; loaded once, then kept.

        Raises:
            ForeseerError: the pipeline cannot be found or loaded.
        """
        if self._pipeline is None or self._model != model:
            self.leave()
            self._pipeline, self._model = None, None
            self.memory.clear()
            self.limit_threads()
            self._pipeline = model.load()
            self._model = model
        return self._pipeline

    def limit_threads(self) -> None:
        """Have torch use the worker's number of CPU threads."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)

    def enter(self, manager: Callable[[], AbstractContextManager[Any]]) -> Any:
        """Return the value of a context manager that stays entered until the task changes."""
        if self._entered is None:
            with contextlib.ExitStack() as stack:
                value = stack.enter_context(manager())
                self._entered = stack.pop_all(), value
        return self._entered[1]

    def leave(self) -> None:
        """Leave the context manager of the last task, if it entered one."""
        if self._entered is not None:
            (stack, _), self._entered = self._entered, None
            stack.close()


@dataclass(frozen=True)
class UnitRequest:
    """One unit for a worker; ``task`` is pickled, and ``None`` where the worker has it already."""

    unit: Unit
    task_key: str
    task: bytes | None = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    Attributes:
        result: of the unit; ``None`` where it failed.
        reason: of the failure, in one line.
        error: the class of an error that Foreseer raises on purpose, as module and name, with its message.
        worker_lost: whether the worker must be replaced before the unit is tried again.
    """

    result: bytes | None = field(default=None, repr=False)
    reason: str = ""
    error: tuple[str, str, str] | None = None
    worker_lost: bool = False


def about_this_process() -> dict[str, str]:
    """Host, process and versions."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    python = platform.python_version()
    return {"host": socket.gethostname(), "process": str(os.getpid()), "foreseer": __version__, "python": python} | (
        versions
    )


def answer(worker: Worker, tasks: dict[str, Task], request: UnitRequest) -> Reply:
    """Do the unit of a request; an exception becomes a reply.

    Args:
        worker: of this process.
        tasks: the last task by its key; kept here between requests.
        request: what to do.
    """
    try:
        if request.task is not None:
            tasks.clear()
            worker.leave()
            tasks[request.task_key] = pickle.loads(request.task)  # noqa: S301 - written by the driver of this job
        return Reply(tasks[request.task_key].run(worker, request.unit))
    except Exception as error:  # noqa: BLE001 - the job raises or keeps it
        return Reply(reason=in_one_line(error), error=_named(error), worker_lost=is_untrusted(error))


def is_untrusted(error: BaseException) -> bool:
    """Return whether the process may be damaged after ``error``: its first cause is not a ForeseerError."""
    while error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, UNTRUSTED) and not isinstance(error, ForeseerError)


def _named(error: BaseException) -> tuple[str, str, str] | None:
    kind = type(error)
    return (kind.__module__, kind.__qualname__, str(error)) if isinstance(error, ForeseerError) else None


def raised_again(reply: Reply) -> BaseException | None:
    """The exception of a reply, where this process has its class."""
    if reply.error is None:
        return None
    module, name, message = reply.error
    kind = getattr(sys.modules.get(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, ForeseerError)):
        return ForeseerError(message)
    try:
        return kind(message)
    except TypeError:
        return ForeseerError(message)
