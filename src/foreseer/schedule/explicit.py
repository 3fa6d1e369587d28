"""An explicit list of computed steps."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from foreseer.checks import check_count
from foreseer.errors import ScheduleError
from foreseer.grid import Grid
from foreseer.schedule.base import Schedule, check_computed_steps


@dataclass(frozen=True)
class Explicit(Schedule):
    """Exactly the listed steps compute.

    Args:
        steps: step indices, ascending from 0.
        of: the run length that the list is for; other run lengths then raise. ``None`` for any.

    Raises:
        ScheduleError: the list is empty, unsorted or does not start with 0, or the run is too short for it.

    >>> Explicit((0, 1, 4, 9)).computed_steps(12)
    (0, 1, 4, 9)
    """

    steps: tuple[int, ...]
    of: int | None = None

    def __init__(self, steps: Iterable[int], of: int | None = None) -> None:
        if of is not None:
            check_count("of", of, ScheduleError, least=1)
        object.__setattr__(self, "steps", check_computed_steps(steps, of if of is not None else sys.maxsize))
        object.__setattr__(self, "of", of)

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """Return the listed steps after ``first_step``, and ``first_step`` itself, counted from there."""
        self.computed_steps(len(grid))
        return (0, *(step - first_step for step in self.steps if step > first_step))

    def _computed_steps(self, steps: int) -> Iterable[int]:
        if self.of is not None and steps != self.of:
            raise ScheduleError(f"These steps were chosen for runs of {self.of} steps, this run has {steps}.")
        return self.steps
