"""What a schedule rule is: it names the steps that compute."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from itertools import pairwise

from foreseer.checks import check_count
from foreseer.errors import ScheduleError
from foreseer.grid import Grid


class Schedule(ABC):
    """A rule that says which steps of a run compute; the others are forecast."""

    def computed_steps(self, steps: int) -> tuple[int, ...]:
        """The computed steps of a run of ``steps`` steps, ascending, beginning with 0.

        Raises:
            ScheduleError: the rule names no step, an unknown one, one twice, or not the first.
        """
        check_count("steps", steps, ScheduleError, least=1)
        return check_computed_steps(self._computed_steps(steps), steps)

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """The computed steps of the part of a run on ``grid`` that begins at ``first_step``, counted from there.

        A branch that begins late, and image to image, see such a part: by default the rule begins anew there. A run
        that had computed ``spent`` steps before goes on in that part; a rule with a budget has so many less.
        """
        return self.computed_steps(len(grid) - first_step)

    def branch_steps(self, grid: Grid, first_step: int = 0) -> Mapping[str, tuple[int, ...]]:
        """The computed steps of branches of guidance that do not compute at all of :meth:`on`, by name."""
        return {}

    @abstractmethod
    def _computed_steps(self, steps: int) -> Iterable[int]: ...


def rest_of(nfe: int, spent: int, steps: int) -> int:
    """What is left for ``steps`` steps of a budget of which some is spent: one evaluation at least, for the first."""
    return min(max(1, nfe - spent), steps)


def check_budget(nfe: int, steps: int) -> None:
    """Refuse a number of evaluations that no run of ``steps`` steps has."""
    check_count("steps", steps, ScheduleError, least=1)
    check_count("nfe", nfe, ScheduleError, least=-sys.maxsize)
    if not 1 <= nfe <= steps:
        raise ScheduleError(f"{nfe} evaluations do not fit a run of {steps} steps; ask for 1 to {steps}.")


def check_computed_steps(computed_steps: Iterable[int], steps: int) -> tuple[int, ...]:
    """``computed_steps`` as a tuple, once it is known to be ascending, within the run, and to begin with 0."""
    try:
        given = list(computed_steps)
        checked = tuple(int(step) for step in given)
    except (TypeError, ValueError) as error:
        raise ScheduleError(f"Computed steps must be integers: {error}.") from error
    if any(step != original for step, original in zip(checked, given, strict=True)):
        raise ScheduleError(f"Computed steps must be integers, received {given}.")
    if not checked:
        raise ScheduleError("No step computes: at least the first one must.")
    if any(later <= earlier for earlier, later in pairwise(checked)):
        raise ScheduleError(f"Computed steps must ascend without repeats, received {checked}.")
    if checked[0] != 0:
        raise ScheduleError(
            f"The first computed step is {checked[0]}; it must be 0, since nothing can be forecast before it."
        )
    if checked[-1] >= steps:
        raise ScheduleError(f"Step {checked[-1]} does not exist in a run of {steps} steps (0 to {steps - 1}).")
    return checked
