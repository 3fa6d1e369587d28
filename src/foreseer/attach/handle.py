"""The handle that `accelerate` returns: what happened, and the way back."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

from foreseer.attach.record import FailOpen, RunRecord
from foreseer.errors import FailedOpenError, ForeseerWarning
from foreseer.gate import AnyPolicy


class Handle:
    """An attached policy.

    Usable as a context manager that detaches on leaving. Safe to use from several threads: each has its own runs.

    Attributes:
        policy: what was attached.
        strict: whether a step that would fail open raises instead.
    """

    def __init__(self, policy: AnyPolicy, detachers: list[Callable[[], None]], strict: bool = False) -> None:
        self.policy = policy
        self.strict = strict
        self._detachers = detachers
        self._threads = threading.local()
        self._last: RunRecord | None = None
        self._warned = False

    @property
    def attached(self) -> bool:
        """Whether the policy is still attached."""
        return bool(self._detachers)

    @property
    def record(self) -> RunRecord | None:
        """This thread's last run, or else the last run of any thread; ``None`` before the first."""
        return getattr(self._threads, "record", None) or self._last

    def detach(self) -> None:
        """Leave the model as it was found. May be called again."""
        while self._detachers:
            self._detachers.pop()()

    def begin_run(self, identity: Any, denoiser: str) -> RunRecord:
        """The record of the run that ``identity`` stands for: joined if another denoiser began it, else a new one."""
        threads = self._threads
        known = getattr(threads, "record", None) is not None and threads.identity is identity
        if not known or denoiser in threads.denoisers:
            threads.identity, threads.denoisers = identity, set()
            threads.record = self._last = RunRecord()
        threads.denoisers.add(denoiser)
        return threads.record

    def current_run(self) -> RunRecord:
        """The record of this thread's current run."""
        return self._threads.record

    def failed_open(self, step: int, branch: str, reason: str) -> None:
        """Note that a step is computed against the plan; warn once, or raise in strict mode.

        Raises:
            FailedOpenError: the handle is strict.
        """
        words = f"Step {step} ({branch}) is computed instead of forecast: {reason.rstrip('.')}."
        if self.strict:
            raise FailedOpenError(words)
        self.current_run().failed_open.append(FailOpen(step, branch, reason))
        if not self._warned:
            self._warned = True
            warnings.warn(f"{words} Said once; handle.record.failed_open lists all.", ForeseerWarning, stacklevel=2)

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()
