"""One computed step every N steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from foreseer.checks import check_count, check_number
from foreseer.errors import ScheduleError
from foreseer.grid import Grid
from foreseer.schedule.base import Schedule, check_budget, remaining_budget


@dataclass(frozen=True)
class Uniform(Schedule):
    """After ``warmup`` computed steps, one step in ``interval`` computes (FORA, TaylorSeer).

    The k-th computed step after the warm-up is ``warmup - 1 + floor(k * interval)``.

    Args:
        interval: steps from one computed step to the next, at least 1; may be fractional.
        warmup: number of first steps that compute, at least 1.
        last: number of last steps that compute.
        nfe: budget of the rule; if a run has already used part of it, :meth:`on` spreads the remainder.

    Raises:
        ScheduleError: an option is out of range.

    >>> Uniform(interval=4, warmup=5).computed_steps(20)
    (0, 1, 2, 3, 4, 8, 12, 16)
    """

    interval: float
    warmup: int = 1
    last: int = 0
    nfe: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_number("interval", self.interval, ScheduleError, least=1)
        check_count("warmup", self.warmup, ScheduleError, least=1)
        check_count("last", self.last, ScheduleError)
        if self.nfe is not None:
            check_count("nfe", self.nfe, ScheduleError, least=1)

    @classmethod
    def for_nfe(cls, nfe: int, steps: int, warmup: int = 1) -> Uniform:
        """Return the rule that spreads ``nfe`` computed steps evenly over ``steps``.

        Raises:
            ScheduleError: ``nfe`` is not between 1 and ``steps``.

        >>> Uniform.for_nfe(10, 50)
        Uniform(interval=5.0, warmup=1, last=0)
        """
        check_budget(nfe, steps)
        check_count("warmup", warmup, ScheduleError, least=1)
        warmup = min(warmup, nfe)
        if nfe == warmup:
            return cls(interval=float(steps), warmup=warmup, nfe=nfe)
        # The least interval whose (nfe - warmup + 1)-th step after the warm-up lies beyond the run.
        return cls(interval=max(1.0, (steps - warmup + 1) / (nfe - warmup + 1)), warmup=warmup, nfe=nfe)

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """Return the computed steps of the part; what remains of a budget is spread over it."""
        steps = len(grid) - first_step
        if self.nfe is None or not spent:
            return self.computed_steps(steps)
        return self.for_nfe(remaining_budget(self.nfe, spent, steps), steps, self.warmup).computed_steps(steps)

    @property
    def joins_visits(self) -> bool:
        """Whether every step computes: then visits need not be kept apart."""
        return self.interval == 1

    def _computed_steps(self, steps: int) -> Iterable[int]:
        computed = set(range(min(self.warmup, steps))) | set(range(max(0, steps - self.last), steps))
        k = 1
        # Rounding may leave k * interval slightly below an integer.
        while (step := self.warmup - 1 + math.floor(k * self.interval + 1e-9)) < steps:
            computed.add(step)
            k += 1
        return sorted(computed)
