"""Schedulers that take the place of a pipeline's own, and look like it to the pipeline."""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class OwnScheduler(ABC):
    """Abstract scheduler with the configuration and timesteps of the pipeline's own scheduler.

    Pipelines choose what to pass to a scheduler by its configuration and by the signature of its ``set_timesteps``. A
    copy of the pipeline's scheduler receives all of that; :meth:`_after_set` then replaces what it made.

    Args:
        own: the pipeline's scheduler; a copy of it is used.
    """

    order = 1

    def __init__(self, own: Any) -> None:
        self._own = copy.deepcopy(own)
        self.set_timesteps = self._wrapped(self._own.set_timesteps)

    def _wrapped(self, set_timesteps: Callable[..., None]) -> Callable[..., None]:
        """Keep the signature: pipelines read there which of steps, sigmas, timesteps and shift they may pass."""

        @functools.wraps(set_timesteps)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            set_timesteps(*args, **kwargs)
            self._after_set()

        return wrapped

    @abstractmethod
    def _after_set(self) -> None:
        """Begin a run: the copy of the pipeline's scheduler has its timesteps."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_own":  # a copy asks before anything is set
            raise AttributeError(name)
        return getattr(self._own, name)


@contextmanager
def replaced_scheduler(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Put ``scheduler`` in place of the pipeline's; on leaving, the same object as before is back."""
    own = pipe.__dict__["scheduler"]
    # Not by attribute assignment: a pipeline then rewrites its configuration to name the new class.
    pipe.__dict__["scheduler"] = scheduler
    try:
        yield
    finally:
        pipe.__dict__["scheduler"] = own
