"""Search on a kernel for the computed steps with the least expected error of the final sample."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from foreseer.checks import check_kind, check_target, one_target
from foreseer.errors import ScheduleError
from foreseer.forecast.base import Forecaster
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.kernel.expected import final_errors
from foreseer.schedule.base import Schedule, budget_at, check_computed_steps, remaining_budget
from foreseer.schedule.search import Search


@dataclass(frozen=True, eq=False, repr=False)
class Optimal(Schedule):
    """Computed steps with the least expected final error (:func:`foreseer.kernel.expected.final_errors`).

    If there are few sets of steps, all are tried. Otherwise a beam search grows prefixes step by step, and the best
    sets are improved one step at a time until no move helps. Long runs are searched on every n-th step first; a budget
    too large for that grid is spread as the best smaller one is.

    Args:
        kernel: second moments from calibration.
        nfe: number of computed steps; or
        speedup: T / NFE: T / speedup steps compute, rounded; or
        max_error: expected relative error of the final sample (root mean square over prompts); the fewest steps that
            keep it compute.
        forecaster: source of the rows; kernel rows by default.

    Raises:
        ScheduleError: not exactly one target was given, or the run is too short for it.
        KernelError: the grid of a run lies outside the kernel's noise levels.
    """

    kernel: Kernel = field(repr=False)
    nfe: int | None = None
    speedup: float | None = None
    max_error: float | None = None
    forecaster: Forecaster | None = None
    _cache: dict[tuple[bytes, int], tuple[int, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_kind("kernel", self.kernel, Kernel, ScheduleError)
        if self.forecaster is not None:
            check_kind("forecaster", self.forecaster, Forecaster, ScheduleError)
        targets = {"nfe": self.nfe, "speedup": self.speedup, "max_error": self.max_error}
        check_target(one_target(ScheduleError, targets, required=True), ScheduleError)
        if self.max_error is not None and not self.kernel.has_final_error:
            raise ScheduleError("This kernel has no final error (stochastic scheduler): give nfe or speedup.")

    @property
    def joins_visits(self) -> bool:
        """Whether the kernel was recorded with a scheduler that visits levels more than once."""
        return self.kernel.grid.repeats

    def __repr__(self) -> str:
        targets = {"nfe": self.nfe, "speedup": self.speedup, "max_error": self.max_error, "forecaster": self.forecaster}
        given = ", ".join(f"{name}={value!r}" for name, value in targets.items() if value is not None)
        return f"Optimal({given})"

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """Return the best steps found for the part of a run that starts at ``first_step``, counted from there.

        ``spent`` is subtracted from ``nfe`` (a second transformer takes over in mid-run); at least one step of the part
        computes. ``speedup`` and ``max_error`` apply to the part alone.
        """
        grid = grid.tail(first_step)
        spent = spent if self.nfe is not None else 0
        key = grid.key, spent
        if key not in self._cache:
            search = Search(self.kernel.on(grid), self.forecaster or KernelRows(self.kernel))
            steps = self._fewest(search, grid) if self.max_error is not None else search.best(self._budget(grid, spent))
            self._cache[key] = check_computed_steps(steps, len(grid))
        return self._cache[key]

    def _budget(self, grid: Grid, spent: int) -> int:
        if spent:
            return remaining_budget(self.nfe or 1, spent, len(grid))
        nfe = budget_at(len(grid), self.nfe, self.speedup)
        if nfe > len(grid):
            raise ScheduleError(f"nfe={nfe} does not fit a run of {len(grid)} steps; expected at most {len(grid)}.")
        return nfe

    def _fewest(self, search: Search, grid: Grid) -> tuple[int, ...]:
        """Find the fewest steps that keep ``max_error``, by bisection; computing all steps keeps any error."""
        assert self.kernel.final_squares is not None
        most = (self.max_error or 0.0) * math.sqrt(float(np.mean(self.kernel.final_squares)))
        low, high = 1, len(grid)
        while low < high:
            middle = (low + high) // 2
            if self._cost(search, search.best(middle), grid) <= most:
                high = middle
            else:
                low = middle + 1
        return search.best(high)

    def _cost(self, search: Search, steps: tuple[int, ...], grid: Grid) -> float:
        """Return the expected error; a search for rows with error feedback counts a share of the sensitivity."""
        rows = self.forecaster
        if not isinstance(rows, KernelRows) or not rows.feedback_gain:
            return search.cost(steps)
        errors = final_errors(rows.kernel.on(grid), rows.rows(steps, grid), rows.branch_rows(steps, grid))
        return math.sqrt(float(np.mean(errors**2)))

    def _computed_steps(self, steps: int) -> Iterable[int]:
        if steps != len(self.kernel.grid):
            raise ScheduleError(
                f"The kernel has {len(self.kernel.grid)} steps, the run {steps}; call on(grid) with the run's grid."
            )
        return self.on(self.kernel.grid)
