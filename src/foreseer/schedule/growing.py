"""Spectrum's schedule: the gap grows after each computed step."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from foreseer.checks import check_count, check_number
from foreseer.errors import ScheduleError
from foreseer.grid import Grid
from foreseer.schedule.base import Schedule, check_budget, rest_of


@dataclass(frozen=True)
class Growing(Schedule):
    r"""After ``warmup`` computed steps the gap starts at ``interval`` and grows by ``alpha`` after each.

    The k-th gap is $\lfloor N + k\alpha \rfloor$, k = 0, 1, ... (Spectrum, arXiv 2603.01623, appendix B.1).
    With ``alpha=0`` and a whole ``interval`` this is :class:`Uniform`.

    Args:
        interval: the first gap N in steps, at least 1.
        warmup: how many first steps compute, at least 1.
        alpha: growth of the gap in steps, at least 0.
        nfe: the budget that the rule was made for: where a run has spent some of it before, the rest is spread.

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
        """The rule whose ``alpha`` computes ``nfe`` of ``steps`` steps: the middle of the range of such alphas.

        A budget too small for ``warmup`` shortens the warm-up; one too large for ``interval`` lengthens it.

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
        """As any rule; one with a budget of which some is spent spreads the rest."""
        steps = len(grid) - first_step
        if self.nfe is None or not spent:
            return self.computed_steps(steps)
        return self.for_nfe(rest_of(self.nfe, spent, steps), steps, self.interval, self.warmup).computed_steps(steps)

    def _computed_steps(self, steps: int) -> Iterable[int]:
        computed = list(range(min(self.warmup, steps)))
        gap = float(self.interval)
        while (step := computed[-1] + math.floor(gap + 1e-9)) < steps:
            computed.append(step)
            gap += self.alpha
        return computed
