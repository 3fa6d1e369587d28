"""Counting the runs of a scheduler: each call of its ``set_timesteps`` begins one."""

from __future__ import annotations

import inspect
import threading
from typing import Any

_NAME = "set_timesteps"


class _SeenSchedulers(threading.local):
    """What one thread has seen of a scheduler: the number of runs begun, and the last one's timesteps."""

    runs: int = 0
    timesteps: Any = None


class SchedulerWatch:
    """Intercepts ``set_timesteps`` on one scheduler instance; its class is not touched.

    All handles that use the scheduler share the watch. :meth:`leave` removes it with the last of them. Each thread has
    its own count: a scheduler may hold state per thread.

    Attributes:
        seen: this thread's count of runs, and the timesteps that its last ``set_timesteps`` made.
    """

    def __init__(self) -> None:
        self.seen = _SeenSchedulers()
        self._users = 0

    def begin_run(self, timesteps: Any) -> None:
        """Count a run."""
        self.seen.runs += 1
        self.seen.timesteps = timesteps

    @classmethod
    def of(cls, scheduler: Any) -> SchedulerWatch:
        """The scheduler's watch, put there where it is missing."""
        interceptor = getattr(scheduler, "__dict__", {}).get(_NAME)
        if isinstance(interceptor, _SetTimesteps):
            return interceptor.watch
        watch = cls()
        if hasattr(scheduler, _NAME) and hasattr(scheduler, "__dict__"):
            scheduler.__dict__[_NAME] = _SetTimesteps(watch, scheduler)
        return watch

    def join(self) -> None:
        """Count one more user."""
        self._users += 1

    def leave(self, scheduler: Any) -> None:
        """Count one user less; the last one restores the scheduler."""
        self._users -= 1
        interceptor = getattr(scheduler, "__dict__", {}).get(_NAME)
        if self._users <= 0 and isinstance(interceptor, _SetTimesteps) and interceptor.watch is self:
            interceptor.restore()


class _SetTimesteps:
    """Stands in for ``scheduler.set_timesteps``, with its signature (pipelines inspect it)."""

    def __init__(self, watch: SchedulerWatch, scheduler: Any) -> None:
        self.watch = watch
        self._scheduler = scheduler
        self._before = scheduler.__dict__.get(_NAME)
        self.__signature__ = inspect.signature(self._original())
        self.__doc__ = self._original().__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._original()(*args, **kwargs)
        finally:
            self.watch.begin_run(getattr(self._scheduler, "timesteps", None))

    def _original(self) -> Any:
        """The scheduler's own method, found where Python would find it without this object."""
        if self._before is not None:
            return self._before
        kind = type(self._scheduler)
        method = getattr(kind, _NAME, None)
        return kind.__getattr__(self._scheduler, _NAME) if method is None else method.__get__(self._scheduler, kind)

    def restore(self) -> None:
        """Leave the scheduler as it was found."""
        members = self._scheduler.__dict__
        if self._before is None:
            del members[_NAME]
        else:
            members[_NAME] = self._before

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy of the scheduler is not watched. A copy of its state alone, to be put back later, stays watched.
        twin = memo.get(id(self._scheduler))
        return self if twin is None else getattr(twin, _NAME)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._scheduler, _NAME)
