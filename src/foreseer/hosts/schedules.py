"""Schedules for hosts: first and last steps always compute; the budget follows each run's step count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from foreseer.grid import Grid
from foreseer.methods import find
from foreseer.schedule import Schedule


@dataclass(frozen=True)
class WithEnds(Schedule):
    """The steps of another schedule, plus the first and last steps of the run.

    Args:
        schedule: the other schedule.
        first: how many steps compute at the beginning.
        last: how many steps compute at the end.

    >>> from foreseer.schedule import Uniform
    >>> WithEnds(Uniform(interval=4), first=2, last=1).computed_steps(10)
    (0, 1, 4, 8, 9)
    """

    schedule: Schedule
    first: int
    last: int

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """Return the computed steps, as :meth:`foreseer.schedule.Schedule.on`.

        ``first`` counts from the beginning of the run, also for a part that begins later.
        """
        steps = len(grid) - first_step
        return self._with_ends(self.schedule.on(grid, first_step, spent), steps, self.first - first_step)

    def _computed_steps(self, steps: int) -> Iterable[int]:
        return self._with_ends(self.schedule.computed_steps(steps), steps, self.first)

    def _with_ends(self, computed: tuple[int, ...], steps: int, first: int) -> tuple[int, ...]:
        ends = {*range(min(max(first, 0), steps)), *range(max(steps - self.last, 0), steps)}
        return tuple(sorted({*computed, *ends}))


@dataclass(frozen=True)
class AtSpeedup(Schedule):
    """The schedule of a named method, at the budget that a speedup gives for each run.

    Args:
        method: the method's name.
        speedup: steps per computed step; ``None`` with ``nfe``.
        nfe: computed steps per run.

    >>> AtSpeedup("reuse", 4.0).computed_steps(12), len(AtSpeedup("reuse", 4.0).computed_steps(40))
    ((0, 4, 8), 10)
    """

    method: str
    speedup: float | None
    nfe: int | None = None

    def _computed_steps(self, steps: int) -> Iterable[int]:
        nfe = self.nfe if self.nfe is not None else max(1, round(steps / (self.speedup or 1.0)))
        if nfe >= steps:
            return range(steps)
        schedule = find(self.method).policy(steps, nfe, site="output").schedule  # pyright: ignore[reportAttributeAccessIssue]
        return schedule.computed_steps(steps)
