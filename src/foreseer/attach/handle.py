"""The handle that `accelerate` returns: records of runs, and detaching."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal

from torch import Tensor

from foreseer.attach.run.scheduler_identity import how_schedulers_differ
from foreseer.attach.run_record import FailOpen, RunRecord
from foreseer.errors import AttachError, FailedOpenError, ForeseerWarning
from foreseer.guidance import OTHER_GUIDANCE, Guidance, difference, distance, read_guidance
from foreseer.plan import CompiledRows, FixedPlan, Policy
from foreseer.plan.explain import MUCH_ROUNDING, NO_SCHEDULER, worst_rounding

OnOtherGuidance = Literal["refuse", "warn", "compute", "ignore"]
FINER = 2  # times the steps of a kernel's recording, up to which its rows and expected errors were seen to hold


class Handle:
    """An attached policy.

    Usable as a context manager that detaches on leaving. Safe to use from several threads: each has its own runs.

    Attributes:
        policy: what was attached.
        strict: whether a step that would fail open raises instead.
    """

    def __init__(
        self,
        policy: Policy,
        detachers: list[Callable[[], None]],
        strict: bool = False,
        replaced: Callable[[], list[str]] = list,
        unattached: tuple[str, ...] = (),
        *,
        on_other_guidance: OnOtherGuidance = "refuse",
    ) -> None:
        self.policy = policy
        self.strict = strict
        self._detachers = detachers
        self._replaced = replaced
        self._unattached = unattached
        self._threads = threading.local()
        self._last: RunRecord | None = None
        self._warned = False
        self._said_nothing_saved = False
        self._said_rounding = False
        self._said_fineness = False
        self._said_replaced = False
        self._said_fallback = False
        self._said_scheduler = False
        self._said_guidance = False
        self._on_other_guidance = on_other_guidance
        self._learned_guidance = read_guidance(policy.learned_on.get("guidance"))

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
        """Restore the model, and warn of what went wrong. May be called again."""
        last = self._last_record if self._detachers else None
        replaced = self._replaced_now()
        self.detach_silently()
        self._say_replaced(replaced)
        self._check_saving(last)

    def detach_silently(self) -> None:
        """Restore the model, without a warning that nothing was saved."""
        raised: ForeseerWarning | None = None
        while self._detachers:
            try:
                self._detachers[-1]()
            except ForeseerWarning as warning:  # where warnings are errors: detach the others first
                raised = raised or warning
                continue
            self._detachers.pop()
        if raised is not None:
            raise raised

    @property
    def _last_record(self) -> RunRecord | None:
        return getattr(self._threads, "record", None) or self._last

    def _replaced_now(self) -> list[str]:
        return self._replaced() if self._detachers and not self._said_replaced else []

    def _say_replaced(self, names: list[str]) -> None:
        """Warn once that the pipeline now runs other denoisers than those attached to."""
        if names:
            self._said_replaced = True
            warnings.warn(
                f"The pipeline's {' and '.join(names)} was replaced after attaching: its runs since then were not "
                "accelerated. Detach (handle.detach()) and attach again. Said once.",
                ForeseerWarning,
                stacklevel=3,
            )

    def _check_saving(self, finished: RunRecord | None) -> None:
        """Warn once that a run saved nothing although no step failed open, and why."""
        if finished is None or self.policy.names_every_step or self._said_nothing_saved:
            return
        reason = finished.why_nothing_saved()
        if reason is not None:
            self._said_nothing_saved = True
            warnings.warn(f"A run saved nothing: {reason}. Said once.", ForeseerWarning, stacklevel=3)

    def begin_run(self, run: tuple[int, int], denoiser: str) -> RunRecord:
        """The record of ``run``: the one that another denoiser began, else a new one."""
        threads = self._threads
        finished = getattr(threads, "record", None)
        if finished is None or threads.run != run or denoiser in threads.denoisers:
            threads.run, threads.denoisers = run, set()
            threads.record = self._last = RunRecord(unattached=self._unattached)
            self._check_saving(finished)
        threads.denoisers.add(denoiser)
        return threads.record

    def computed_steps(self, run: tuple[int, int]) -> tuple[int, ...]:
        """The steps that this thread's ``run`` has computed so far."""
        record = getattr(self._threads, "record", None)
        return () if record is None or self._threads.run != run else record.computed_steps

    def current_run(self, run: tuple[int, int], denoiser: str) -> RunRecord:
        """The record of this thread's current run."""
        record = getattr(self._threads, "record", None)
        return self.begin_run(run, denoiser) if record is None else record

    def failed_open(self, step: int, branch: str, reason: str, instead_of: FailOpen | None = None) -> FailOpen:
        """Record that a step is computed against the plan; warn once, or raise in strict mode.

        ``instead_of`` is the same step's entry, made before the cause was known.

        Raises:
            FailedOpenError: the handle is strict.
        """
        message = f"Step {step} ({branch}) is computed instead of forecast: {reason.rstrip('.')}."
        if self.strict:
            raise FailedOpenError(message)
        failed = FailOpen(step, branch, reason)
        entries = self._threads.record.failed_open
        if instead_of is not None:
            entries.remove(instead_of)
        entries.append(failed)
        if not self._warned:
            self._warned = True
            warnings.warn(f"{message} Said once; handle.record.failed_open lists all.", ForeseerWarning, stacklevel=2)
        return failed

    def fell_back(self, reason: str) -> None:
        """Warn once that features are taken at the output instead of the policy's site."""
        if not self._said_fallback:
            self._said_fallback = True
            warnings.warn(
                f"The site {self.policy.site!r} is not available: {reason.rstrip('.')}. The network's output is "
                "forecast instead. Said once.",
                ForeseerWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        record = self._last_record
        if record is None or not record.steps:
            return f"{'Attached' if self.attached else 'Detached'}; no run yet."
        saved = f"{record.calls / record.forward_passes:.1f}x fewer forward passes" if record.forward_passes else ""
        expected = "" if record.expected_error is None else f", {record.expected_error:.4f} expected error"
        failed = f"; {len(record.failed_open)} computed against the plan" if record.failed_open else ""
        return f"{record.nfe} of {record.steps} steps computed, {saved}{expected}{failed}"

    def summary(self) -> str:
        """Return a table of the last run: computed and forecast calls per branch, and steps that failed open."""
        record = self._last_record
        if record is None:
            return str(self)
        lines = [str(self), f"{'branch':<16} {'computed':>8} {'forecast':>8}  computed steps"]
        for branch, steps in record.computed.items():
            forecast = len(record.forecast.get(branch, ()))
            lines.append(f"{branch:<16} {len(steps):>8} {forecast:>8}  {' '.join(map(str, steps))}")
        lines += [f"step {each.step} ({each.branch}): {each.reason}" for each in record.failed_open]
        fixed = [rows.plan for rows in record.plans.values() if self._is_fixed(rows)]
        if fixed and "scheduler" not in fixed[0].provenance:
            lines.append(NO_SCHEDULER)
        if record.unattached:
            lines.append(f"not attached, computed whenever called: {', '.join(record.unattached)}")
        return "\n".join(lines)

    def check_fineness(self, steps: int) -> None:
        """Warn once where a run has many more steps than the runs that its rows were learned on.

        Args:
            steps: number of noise levels of the run.
        """
        learned_steps = self.policy.learned_on.get("steps", "")
        if self._said_fineness or not learned_steps.isdecimal() or steps <= FINER * int(learned_steps):
            return
        self._said_fineness = True
        warnings.warn(
            f"This run has {steps} steps, and the rows were learned on runs of {learned_steps}: what lies between is a "
            f"guess, and errors may be larger than expected. Calibrate with {math.ceil(steps / FINER)} steps or more. "
            "Said once.",
            ForeseerWarning,
            stacklevel=2,
        )

    def check_guidance(self, find_guidance: Callable[[], Guidance | None]) -> str | None:
        """Compare a run's guidance with the one that its rows were learned with.

        Returns:
            Why the run must compute every step, else ``None``.

        Raises:
            AttachError: the two are far apart, and this is refused.
        """
        learned, mode = self._learned_guidance, self._on_other_guidance
        if learned is None or mode == "ignore" or (mode == "warn" and self._said_guidance):
            return None
        now = find_guidance()
        apart = 0.0 if now is None else distance(learned, now)
        if now is None or not apart:
            return None
        message = difference(learned, now)
        if apart > 1 and mode == "compute":
            return message
        if apart > 1 and mode == "refuse":
            raise AttachError(f"{message} {OTHER_GUIDANCE}")
        if not self._said_guidance:
            self._said_guidance = True
            warnings.warn(f"{message} Forecasts may be poorer. Said once.", ForeseerWarning, stacklevel=2)
        return None

    def check_scheduler(self, rows: CompiledRows, scheduler: Any) -> None:
        """Warn once where the plan that was attached was made for another scheduler than the run's."""
        if self._said_scheduler or not self._is_fixed(rows):
            return
        difference = how_schedulers_differ(rows.plan.provenance, scheduler)
        if difference:
            self._said_scheduler = True
            warnings.warn(
                f"This plan was made for {difference}. The noise levels are equal, but the sampler may use the outputs "
                "differently, and forecasts may be poorer: make a plan with this scheduler. Said once.",
                ForeseerWarning,
                stacklevel=2,
            )

    def _is_fixed(self, rows: CompiledRows) -> bool:
        """Whether rows are those of the attached plan itself, and not compiled for the run."""
        return isinstance(self.policy, FixedPlan) and rows.plan is self.policy.plan

    def check_rounding(self, plan: CompiledRows, feature: Sequence[Tensor]) -> None:
        """Warn once where rows are so large that the rounding of the features spoils a forecast."""
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
            self.detach_silently()
