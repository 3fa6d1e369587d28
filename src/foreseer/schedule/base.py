"""The interface of schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from itertools import pairwise

from foreseer.checks import check_count
from foreseer.errors import ScheduleError
from foreseer.grid import Grid


class Schedule(ABC):
    """A rule that chooses the steps of a run that compute; the others are forecast."""

    @property
    def joins_visits(self) -> bool:
        """Whether the steps were searched on all visits of each noise level together."""
        return False

    def computed_steps(self, steps: int) -> tuple[int, ...]:
        """Return the computed steps of a run of ``steps`` steps, ascending from 0.

        Raises:
            ScheduleError: the rule chooses no step, a step outside the run, one twice, or not step 0.
        """
        check_count("steps", steps, ScheduleError, least=1)
        return check_computed_steps(self._computed_steps(steps), steps)

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """Return the computed steps of the part of a run that starts at ``first_step``, counted from there.

        Branches that start late and image to image run such a part; by default the rule is applied to it as to a run.

        Args:
            grid: the noise levels of the whole run.
            first_step: the first step of the part.
            spent: forward passes that the run has already used; budgeted rules subtract them.
        """
        return self.computed_steps(len(grid) - first_step)

    def branch_steps(self, grid: Grid, first_step: int = 0) -> Mapping[str, tuple[int, ...]]:
        """Return the computed steps of each branch that skips some of the steps of :meth:`on`, by name."""
        return {}

    @abstractmethod
    def _computed_steps(self, steps: int) -> Iterable[int]: ...


def budget_at(steps: int, nfe: int | None, speedup: float | None) -> int:
    """Return the computed steps of a run: ``nfe``, or ``steps / speedup`` rounded, at least 1.

    >>> budget_at(50, None, 4.0), budget_at(20, 9, None)
    (12, 9)
    """
    return nfe if nfe is not None else max(1, round(steps / (speedup or 1.0)))


def remaining_budget(nfe: int, spent: int, steps: int) -> int:
    """Return what remains of a budget for ``steps`` steps: at least one evaluation, for the first step."""
    return min(max(1, nfe - spent), steps)


def check_budget(nfe: int, steps: int) -> None:
    """Raise unless ``nfe`` is in [1, steps]."""
    check_count("steps", steps, ScheduleError, least=1)
    check_count("nfe", nfe, ScheduleError, least=1)
    if nfe > steps:
        raise ScheduleError(f"nfe={nfe} does not fit a run of {steps} steps; expected 1 to {steps}.")


def check_computed_steps(computed_steps: Iterable[int], steps: int) -> tuple[int, ...]:
    """Return ``computed_steps`` as a tuple; raise unless it ascends from 0 and stays within the run."""
    try:
        values = list(computed_steps)
        checked = tuple(int(step) for step in values)
    except (TypeError, ValueError) as error:
        raise ScheduleError(f"Computed steps must be integers: {error}.") from error
    if any(step != value for step, value in zip(checked, values, strict=True)):
        raise ScheduleError(f"Computed steps must be integers, received {values}.")
    if not checked:
        raise ScheduleError("No step computes: at least step 0 must.")
    if any(later <= earlier for earlier, later in pairwise(checked)):
        raise ScheduleError(f"Computed steps must ascend without repeats, received {checked}.")
    if checked[0] != 0:
        raise ScheduleError(
            f"The first computed step is {checked[0]}; it must be 0, since nothing can be forecast before it."
        )
    if checked[-1] >= steps:
        raise ScheduleError(f"Step {checked[-1]} does not exist in a run of {steps} steps (0 to {steps - 1}).")
    return checked
