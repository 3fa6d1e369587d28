"""Schedule for hosts: first and last steps always compute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from foreseer.grid import Grid
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
