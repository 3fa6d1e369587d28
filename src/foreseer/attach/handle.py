"""The handle that `accelerate` returns: what happened, and the way back."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor

from foreseer.attach.record import FailOpen, RunRecord
from foreseer.errors import AttachError, FailedOpenError, ForeseerWarning
from foreseer.gate import AnyPolicy, GatedPolicy
from foreseer.plan import Plan, Policy
from foreseer.plan.explain import MUCH_ROUNDING, worst_rounding
from foreseer.schedule import Explicit, Uniform

FINER = 2  # times the steps of a kernel's recording, on which its rows and expected errors were seen to hold


class Handle:
    """An attached policy.

    Usable as a context manager that detaches on leaving. Safe to use from several threads: each has its own runs.

    Attributes:
        policy: what was attached.
        strict: whether a step that would fail open raises instead.
    """

    def __init__(
        self,
        policy: AnyPolicy,
        detachers: list[Callable[[], None]],
        strict: bool = False,
        replaced: Callable[[], list[str]] = list,
    ) -> None:
        self.policy = policy
        self.strict = strict
        self._detachers = detachers
        self._replaced = replaced
        self._threads = threading.local()
        self._last: RunRecord | None = None
        self._warned = False
        self._said_nothing_saved = False
        self._said_rounding = False
        self._said_fineness = False
        self._said_replaced = False

    @property
    def attached(self) -> bool:
        """Whether the policy is still attached."""
        return bool(self._detachers)

    @property
    def record(self) -> RunRecord | None:
        """This thread's last run, or else the last run of any thread; ``None`` before the first."""
        self._say_replaced(self._replaced_now())
        return self._last_record

    def detach(self) -> None:
        """Leave the model as it was found; what there is to say is said then. May be called again."""
        last = self._last_record if self._detachers else None
        replaced = self._replaced_now()
        self.let_go()
        self._say_replaced(replaced)
        self._check_saving(last)

    def let_go(self) -> None:
        """Detach, and say nothing of what was saved."""
        said: ForeseerWarning | None = None
        while self._detachers:
            try:
                self._detachers[-1]()
            except ForeseerWarning as warning:  # where warnings are errors: what is left to do comes first
                said = said or warning
                continue
            self._detachers.pop()
        if said is not None:
            raise said

    @property
    def _last_record(self) -> RunRecord | None:
        return getattr(self._threads, "record", None) or self._last

    def _replaced_now(self) -> list[str]:
        return self._replaced() if self._detachers and not self._said_replaced else []

    def _say_replaced(self, names: list[str]) -> None:
        """Say once that the pipeline now runs other denoisers than those attached to."""
        if names:
            self._said_replaced = True
            warnings.warn(
                f"The pipeline's {' and '.join(names)} was replaced after attaching: its runs since then were not "
                "accelerated. Detach (handle.detach()) and attach again. Said once.",
                ForeseerWarning,
                stacklevel=3,
            )

    def _check_saving(self, finished: RunRecord | None) -> None:
        """Say once that a run saved nothing where no step failed open, and why."""
        reason = (
            None
            if finished is None or asks_for_every_step(self.policy)
            else finished.why_nothing_saved(isinstance(self.policy, GatedPolicy))
        )
        if reason is not None and not self._said_nothing_saved:
            self._said_nothing_saved = True
            warnings.warn(f"A run saved nothing: {reason}. Said once.", ForeseerWarning, stacklevel=3)

    def begin_run(self, identity: Any, denoiser: str) -> RunRecord:
        """The record of the run that ``identity`` stands for: joined if another denoiser began it, else a new one."""
        threads = self._threads
        known = getattr(threads, "record", None) is not None and threads.identity is identity
        if not known or denoiser in threads.denoisers:
            finished = getattr(threads, "record", None)
            threads.identity, threads.denoisers = identity, set()
            threads.record = self._last = RunRecord()
            self._check_saving(finished)
        threads.denoisers.add(denoiser)
        return threads.record

    def spent(self, identity: Any, step: int) -> int:
        """Steps before ``step`` that were computed already in this thread's run that ``identity`` stands for."""
        record = getattr(self._threads, "record", None)
        if record is None or self._threads.identity is not identity:
            return 0
        return sum(one < step for one in record.computed_steps)

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

    def check_fineness(self, steps: int) -> None:
        """Say once where a run has many more steps than the runs that its rows were learned on.

        Args:
            steps: on the run's grid.
        """
        known = self.policy.learned_on.get("steps", "")
        if self._said_fineness or not known.isdecimal() or steps <= FINER * int(known):
            return
        self._said_fineness = True
        warnings.warn(
            f"This run has {steps} steps, and the rows were learned on runs of {known}: what lies between is a guess, "
            f"and errors may be larger than expected. Calibrate with {math.ceil(steps / FINER)} steps or more. "
            "Said once.",
            ForeseerWarning,
            stacklevel=2,
        )

    def check_rounding(self, plan: Plan, feature: Sequence[Tensor]) -> None:
        """Say once where rows are so large that the rounding of the features spoils a forecast."""
        if self._said_rounding or not feature:
            return
        dtype = str(feature[0].dtype).removeprefix("torch.")
        step, error = worst_rounding(plan, dtype)
        if error >= MUCH_ROUNDING:
            self._said_rounding = True
            gain = float(abs(plan.rows[step]).sum())
            warnings.warn(
                f"The row of step {step} has gain {gain:.0f}: rounding of {dtype} features alone is expected to change "
                f"its forecast by {error:.0%}. Compute more steps, or take a lower order or features of higher "
                "precision. plan.explain(dtype=...) lists such rows. Said once.",
                ForeseerWarning,
                stacklevel=2,
            )

    def __enter__(self) -> Handle:
        if not self.attached:
            raise AttachError("This handle was detached, and accelerates nothing any more: attach again.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.detach()
        else:
            self.let_go()


def asks_for_every_step(policy: AnyPolicy) -> bool:
    """Whether ``policy`` names every step it computes: then one that saves nothing is as asked for."""
    if not isinstance(policy, Policy):
        return False
    rule = policy.schedule
    return rule is None or isinstance(rule, Explicit) or (isinstance(rule, Uniform) and rule.interval == 1)
