"""`generic`: steps searched on the kernels of other models, for a model that nothing was learned on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from foreseer.checks import check_count, check_kind
from foreseer.errors import ScheduleError
from foreseer.forecast import Forecaster, TaylorSeer
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.schedule import Optimal, Schedule, Uniform
from foreseer.schedule.base import check_budget, remaining_budget

FILE = Path(__file__).with_name("generic_levels.json")
STEPS = 50  # of the grid on which kernels are averaged
MOST = 25  # computed steps up to which they are searched
ROWS = TaylorSeer(order=1)
OTHERWISE = TaylorSeer(order=2)  # under other schedulers, on evenly spaced steps after WARMUP first ones
WARMUP = 3
Levels = Sequence[Sequence[float]]


def generic_kernel(kernels: Sequence[Kernel]) -> Kernel:
    """Return kernels of flow-matching models as one on ``Grid.uniform(50)``, each as one prompt.

    Features are in units of the final sample, so that no model counts more than another.

    Raises:
        ScheduleError: there is no kernel, or one does not know its final sample.
    """
    if not kernels:
        raise ScheduleError("kernels is empty; expected one kernel per model.")
    for kernel in kernels:
        check_kind("kernels", kernel, Kernel, ScheduleError)
    grid = Grid.uniform(STEPS)
    grams = [kernel.on(grid).pooled / _final_square(kernel) for kernel in kernels]
    sensitivity = float(np.sqrt(np.mean([kernel.sensitivity**2 for kernel in kernels])))
    lengths = -np.diff(np.append(grid.levels, grid.final_level))
    return Kernel(grid, np.stack(grams), None, np.ones(len(grams)), sensitivity=sensitivity, effects=lengths)


def _final_square(kernel: Kernel) -> float:
    if kernel.final_squares is None:
        raise ScheduleError(f"{kernel!r} has no final sample to measure its outputs by.")
    return float(np.mean(kernel.final_squares))


def searched_levels(kernel: Kernel, budgets: Iterable[int], forecaster: Forecaster = ROWS) -> dict[int, list[float]]:
    """Return the noise levels of the steps searched on a generic kernel, by number of steps."""
    steps = {nfe: Optimal(kernel, nfe, forecaster=forecaster).on(kernel.grid) for nfe in budgets}
    return {nfe: [round(float(level), 4) for level in kernel.grid.levels[list(steps[nfe])]] for nfe in steps}


@lru_cache(maxsize=1)
def bundled_levels() -> Levels:
    """The searched noise levels that Foreseer brings along, for 1, 2, ... computed steps."""
    return json.loads(FILE.read_text())


def is_flow(grid: Grid) -> bool:
    """Whether levels are those of flow matching, between 1 and 0."""
    return grid.unit == "sigma" and float(grid.levels[0]) <= 1.0 + 1e-6 and grid.final_level >= -1e-6


@dataclass(frozen=True)
class GenericSteps(Schedule):
    """Steps whose noise levels are nearest to those that were searched on kernels of other models.

    Under a scheduler that is not of flow matching, steps are evenly spaced after three first ones.

    Args:
        nfe: number of computed steps.
        levels: the searched levels for 1, 2, ... computed steps; by default those that Foreseer brings along.

    Raises:
        ScheduleError: ``nfe`` is below 1, or ``levels`` are none, or do not fall.

    >>> len(GenericSteps(9).computed_steps(50))
    9
    """

    nfe: int
    levels: Levels | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_count("nfe", self.nfe, ScheduleError, least=1)
        given = self.levels
        if given is not None and not (given and all(one and all(np.diff(one) < 0) for one in given)):
            raise ScheduleError(f"levels is {given}; expected falling noise levels for 1, 2, ... computed steps.")

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """Return the computed steps of the part of a run that starts at ``first_step``, counted from there."""
        part = grid.tail(first_step)
        nfe = remaining_budget(self.nfe, spent, len(part)) if spent else self.nfe
        check_budget(nfe, len(part))
        if not is_flow(grid):
            return Uniform.for_nfe(nfe, len(part), WARMUP).computed_steps(len(part))
        return nearest_steps(part.levels, self._levels(nfe, float(part.levels[0])))

    def _computed_steps(self, steps: int) -> Iterable[int]:
        return self.on(Grid.uniform(steps))

    def _levels(self, nfe: int, top: float) -> Float64[np.ndarray, " K"]:
        """Return ``top`` and the lower levels to compute, of the least budget that has enough below ``top``.

        Beyond the searched budgets the levels of the largest one are interpolated.
        """
        searched = bundled_levels() if self.levels is None else self.levels
        for total in itertools.count(nfe):
            if total <= len(searched):
                levels = np.asarray(searched[total - 1])
            else:
                largest = np.append(searched[-1], 0.0)
                levels = np.interp(np.arange(total) / total, np.arange(largest.size) / (largest.size - 1), largest)
            below = levels[levels < top - 1e-9]
            if below.size >= nfe - 1:
                return np.append(top, below[below.size - nfe + 1 :])
        raise AssertionError


def nearest_steps(levels: Float64[np.ndarray, " T"], wanted: Float64[np.ndarray, " K"]) -> tuple[int, ...]:
    """Return step 0 and the steps nearest to the other ``wanted`` levels, each step once.

    >>> nearest_steps(np.array([1.0, 0.8, 0.6, 0.4, 0.2]), np.array([1.0, 0.79, 0.75]))
    (0, 1, 2)
    """
    steps = [0]
    for index, level in enumerate(wanted[1:].tolist(), start=1):
        nearest = int(np.argmin(np.abs(levels - level)))
        steps.append(min(max(nearest, steps[-1] + 1), levels.size - wanted.size + index))
    return tuple(steps)


@dataclass(frozen=True)
class GenericRows(Forecaster):
    """TaylorSeer's rows: of order 1 under flow matching, else of order 2."""

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        return (ROWS if is_flow(grid) else OTHERWISE).segment(computed, steps, grid)
