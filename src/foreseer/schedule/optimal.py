"""The computed steps with the least expected error of the final sample, searched on a kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from foreseer.errors import ScheduleError
from foreseer.forecast.base import Forecaster
from foreseer.forecast.kernel import KernelRows
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.schedule.base import Schedule, check_computed_steps
from foreseer.schedule.growing import Growing
from foreseer.schedule.uniform import Uniform

RANDOM_STARTS = 6
EXHAUSTIVE = 3000  # try every set of steps where there are no more


@dataclass(frozen=True, eq=False)
class Optimal(Schedule):
    r"""The steps that minimise $\sqrt{\ell^T (I - W) G (I - W)^T \ell}$, the expected error of the final sample.

    $\ell$ is what the sampler makes of an error at each step, W the forecaster's rows for the steps that compute. All
    sets are tried where they are few; else the search moves one step at a time from several starts until no move
    helps.

    Args:
        kernel: second moments from calibration.
        nfe: how many steps compute; or
        speedup: T / NFE, so that T / speedup steps compute, rounded; or
        max_error: the expected relative error of the final sample (root mean square over prompts) that the fewest
            steps must keep.
        forecaster: whose rows will be used, any; by default kernel rows.

    Raises:
        ScheduleError: not exactly one target was given, or it cannot be met on a run; or the kernel cannot cover its
            grid.
    """

    kernel: Kernel = field(repr=False)
    nfe: int | None = None
    speedup: float | None = None
    max_error: float | None = None
    forecaster: Forecaster | None = None
    _found: dict[bytes, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        given = [target for target in (self.nfe, self.speedup, self.max_error) if target is not None]
        numbers = all(isinstance(one, int | float | np.number) for one in given)
        if self.nfe is not None and not isinstance(self.nfe, int | np.integer):
            raise ScheduleError(f"nfe is {self.nfe!r}; it counts evaluations and must be a whole number.")
        if not numbers or len(given) != 1 or not 0 < given[0] < math.inf:
            raise ScheduleError(f"Give one of nfe, speedup and max_error, positive; received {self!r}.")
        if self.max_error is not None and not self.kernel.knows_final_error:
            raise ScheduleError("This kernel knows no final error (a stochastic scheduler): ask for nfe or speedup.")

    def on(self, grid: Grid, first_step: int = 0) -> tuple[int, ...]:
        """The best steps found for the part of a run on ``grid`` that begins at ``first_step``, counted from there."""
        grid = grid.tail(first_step)
        found = self._found.get(grid.key)
        if found is None:
            search = Search(self.kernel.on(grid), self.forecaster or KernelRows(self.kernel))
            steps = self._least(search, len(grid)) if self.max_error is not None else search.best(self._budget(grid))
            found = self._found[grid.key] = check_computed_steps(steps, len(grid))
        return found

    def _budget(self, grid: Grid) -> int:
        nfe = self.nfe if self.nfe is not None else max(1, round(len(grid) / (self.speedup or 1.0)))
        if nfe > len(grid):
            raise ScheduleError(f"{nfe} evaluations do not fit a run of {len(grid)} steps.")
        return nfe

    def _least(self, search: Search, total: int) -> tuple[int, ...]:
        """The fewest steps that keep ``max_error``, by bisection; computing all of them keeps any."""
        assert self.kernel.final_squares is not None
        most = (self.max_error or 0.0) * math.sqrt(float(np.mean(self.kernel.final_squares)))
        low, high = 1, total
        while low < high:
            middle = (low + high) // 2
            if search.cost(search.best(middle)) <= most:
                high = middle
            else:
                low = middle + 1
        return search.best(high)

    def _computed_steps(self, steps: int) -> Iterable[int]:
        if steps != len(self.kernel.grid):
            raise ScheduleError(
                f"The kernel was recorded on {len(self.kernel.grid)} steps; for one of {steps} give the grid: on(grid)."
            )
        return self.on(self.kernel.grid)


class Search:
    """Expected final errors of sets of computed steps, and the search for the least.

    The sum over a segment (the skipped steps between two computed ones) of the final weights times their rows depends
    on the steps before it only, and is kept: a move late in the run leaves the early segments as they are.
    """

    def __init__(self, kernel: Kernel, forecaster: Forecaster) -> None:
        self._grid = kernel.grid
        self._gram = kernel.pooled
        self._final = kernel.final_weights
        self._forecaster = forecaster
        self._segments: dict[tuple[tuple[int, ...], int], np.ndarray] = {}
        self._costs: dict[tuple[int, ...], float] = {}

    def cost(self, steps: tuple[int, ...]) -> float:
        """Root mean square error of the final sample if ``steps`` compute, in units of the sample."""
        found = self._costs.get(steps)
        if found is None:
            through = self._final.copy()
            through[list(steps)] = 0.0
            for index, end in enumerate((*steps[1:], len(self._grid)), start=1):
                if end > steps[index - 1] + 1:
                    through[list(steps[:index])] -= self._segment(steps[:index], end)
            found = self._costs[steps] = math.sqrt(max(0.0, float(through @ self._gram @ through)))
        return found

    def best(self, nfe: int) -> tuple[int, ...]:
        """The steps of least cost that were found."""
        total = len(self._grid)
        if nfe >= total:
            return tuple(range(total))
        if math.comb(total - 1, nfe - 1) <= EXHAUSTIVE:
            every = ((0, *rest) for rest in itertools.combinations(range(1, total), nfe - 1))
            return min(every, key=self.cost)
        slid = sorted({self._slide(start) for start in self._starts(nfe)}, key=self.cost)
        return min((self._descend(steps) for steps in slid[:2]), key=self.cost)

    def _segment(self, before: tuple[int, ...], end: int) -> np.ndarray:
        key = (before, end)
        found = self._segments.get(key)
        if found is None:
            steps = list(range(before[-1] + 1, end))
            found = self._forecaster.weighted_rows(list(before), steps, self._final[steps].tolist(), self._grid)
            self._segments[key] = found
        return found

    def _starts(self, nfe: int) -> Iterator[tuple[int, ...]]:
        total = len(self._grid)
        yield Uniform.for_nfe(nfe, total).computed_steps(total)
        yield Growing.for_nfe(nfe, total, warmup=min(5, max(1, nfe // 2))).computed_steps(total)
        generator = np.random.default_rng(0)
        for _ in range(RANDOM_STARTS):
            yield (0, *sorted((1 + generator.choice(total - 1, nfe - 1, replace=False)).tolist()))

    def _descend(self, steps: tuple[int, ...]) -> tuple[int, ...]:
        while True:
            moved = self._slide(steps)
            jumped = min(self._jumps(moved), key=self.cost, default=moved)
            if self.cost(jumped) >= self.cost(moved):
                return moved
            steps = jumped

    def _slide(self, steps: tuple[int, ...]) -> tuple[int, ...]:
        """Move each step between its neighbours to the best place, last to first, until none moves."""
        while True:
            before = steps
            for index in range(len(steps) - 1, 0, -1):
                end = steps[index + 1] if index + 1 < len(steps) else len(self._grid)
                places = range(steps[index - 1] + 1, end)
                steps = min(((*steps[:index], place, *steps[index + 1 :]) for place in places), key=self.cost)
            if self.cost(steps) >= self.cost(before):
                return before

    def _jumps(self, steps: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Sets in which one step is taken out and put down elsewhere."""
        free = sorted(set(range(1, len(self._grid))) - set(steps))
        for taken in steps[1:]:
            left = [step for step in steps if step != taken]
            for place in free:
                yield tuple(sorted([*left, place]))
