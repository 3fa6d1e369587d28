"""A schedule given step by step."""

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
    """Exactly these steps compute.

    Args:
        steps: ascending step indices, the first 0.
        of: the number of steps that the list was made for; another run length is then refused.

    Raises:
        ScheduleError: the list is empty, unsorted, does not begin with 0, or the run is shorter than it names.

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
        """The listed steps of the part that begins at ``first_step``, which computes; they count on the whole run."""
        self.computed_steps(len(grid))
        return (0, *(step - first_step for step in self.steps if step > first_step))

    def _computed_steps(self, steps: int) -> Iterable[int]:
        if self.of is not None and steps != self.of:
            raise ScheduleError(f"These steps were chosen for runs of {self.of} steps, this run has {steps}.")
        return self.steps
