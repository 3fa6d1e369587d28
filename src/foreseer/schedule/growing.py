"""Spectrum's schedule: gaps between computed steps that grow linearly."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from foreseer.checks import check_count, check_number
from foreseer.errors import ScheduleError
from foreseer.grid import Grid
from foreseer.schedule.base import Schedule, check_budget, remaining_budget


@dataclass(frozen=True)
class Growing(Schedule):
    r"""After ``warmup`` computed steps the gap starts at ``interval`` and grows by ``alpha`` each time.

    The k-th gap is $\lfloor N + k\alpha \rfloor$, k = 0, 1, ... (Spectrum, arXiv 2603.01623, appendix B.1).
    With ``alpha=0`` and a whole ``interval`` this is :class:`Uniform`.

    Args:
        interval: first gap N in steps, at least 1.
        warmup: number of first steps that compute, at least 1.
        alpha: growth of the gap in steps, at least 0.
        nfe: budget of the rule; if a run has already used part of it, :meth:`on` spreads the remainder.

    Raises:
        ScheduleError: an option is out of range.

    >>> Growing(interval=2, warmup=5, alpha=3.0).computed_steps(50)
    (0, 1, 2, 3, 4, 6, 11, 19, 30, 44)
    """

    interval: float = 2
    warmup: int = 5
    alpha: float = 0.75
    nfe: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_number("interval", self.interval, ScheduleError, least=1)
        check_count("warmup", self.warmup, ScheduleError, least=1)
        check_number("alpha", self.alpha, ScheduleError)
        if self.nfe is not None:
            check_count("nfe", self.nfe, ScheduleError, least=1)

    @classmethod
    def for_nfe(cls, nfe: int, steps: int, interval: float = 2, warmup: int = 5) -> Growing:
        """Return the rule that computes ``nfe`` of ``steps`` steps, with ``alpha`` in the middle of its range.

        A budget too small for ``warmup`` shortens the warm-up; a budget too large for ``interval`` lengthens it.

        Raises:
            ScheduleError: ``nfe`` is not between 1 and ``steps``.

        >>> len(Growing.for_nfe(14, 50).computed_steps(50)), len(Growing.for_nfe(30, 50).computed_steps(50))
        (14, 30)
        """
        check_budget(nfe, steps)
        check_number("interval", interval, ScheduleError, least=1)
        check_count("warmup", warmup, ScheduleError, least=1)
        if nfe == 1:
            return cls(interval=float(steps), warmup=1, alpha=0.0, nfe=nfe)
        finest = range(64 * steps + 1)
        for candidate in sorted(range(1, nfe + 1), key=lambda other: abs(other - warmup)):

            def fewer(k: int, candidate: int = candidate) -> int:
                return -len(cls(interval, candidate, k / 64).computed_steps(steps))

            first, beyond = bisect_left(finest, -nfe, key=fewer), bisect_right(finest, -nfe, key=fewer)
            if first < beyond:
                return cls(interval, candidate, (first + beyond - 1) / 128, nfe)
        raise ScheduleError(f"No growing schedule computes {nfe} of {steps} steps.")

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """Return the computed steps of the part; what remains of a budget is spread over it."""
        steps = len(grid) - first_step
        if self.nfe is None or not spent:
            return self.computed_steps(steps)
        nfe = remaining_budget(self.nfe, spent, steps)
        return self.for_nfe(nfe, steps, self.interval, self.warmup).computed_steps(steps)

    def _computed_steps(self, steps: int) -> Iterable[int]:
        computed = list(range(min(self.warmup, steps)))
        gap = float(self.interval)
        while (step := computed[-1] + math.floor(gap + 1e-9)) < steps:
            computed.append(step)
            gap += self.alpha
        return computed
