"""The computed steps with the least expected error of the final sample, searched on a kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from foreseer.checks import check_count, check_kind, check_number
from foreseer.errors import ScheduleError
from foreseer.forecast.base import Forecaster
from foreseer.forecast.kernel import KernelRows
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.schedule.base import Schedule, check_computed_steps, rest_of

EXHAUSTIVE = 3000  # try every set of steps where there are no more
BEAM = 8  # beginnings that are kept of each length and last step
FINALISTS = 4  # whole sets that are improved step by step
LONGEST_GAP = 4  # between two computed steps, in mean gaps
FINE = 64  # more steps than these are searched on every n-th first


@dataclass(frozen=True, eq=False)
class Optimal(Schedule):
    """The steps that minimise the expected error of the final sample, :func:`foreseer.kernel.expected.final_errors`.

    All sets are tried where they are few; else the best beginnings are grown step by step (a beam search), and the best
    sets improved one step at a time until no move helps. A run of many steps is searched on every n-th of them first.

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
    _found: dict[tuple[bytes, int], tuple[int, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        given = [target for target in (self.nfe, self.speedup, self.max_error) if target is not None]
        check_kind("kernel", self.kernel, Kernel, ScheduleError)
        if self.forecaster is not None:
            check_kind("forecaster", self.forecaster, Forecaster, ScheduleError)
        if self.nfe is not None:
            check_count("nfe", self.nfe, ScheduleError, least=1)
        for name, value in (("speedup", self.speedup), ("max_error", self.max_error)):
            if value is not None:
                check_number(name, value, ScheduleError)
        if len(given) != 1 or given[0] == 0:
            raise ScheduleError(f"Give one of nfe, speedup and max_error, positive; received {self!r}.")
        if self.max_error is not None and not self.kernel.knows_final_error:
            raise ScheduleError("This kernel knows no final error (a stochastic scheduler): ask for nfe or speedup.")

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """The best steps found for the part of a run on ``grid`` that begins at ``first_step``, counted from there.

        Of ``nfe`` evaluations a run has spent some before (a second transformer takes over): the part has the rest, at
        least one, at most all its steps. Other targets hold for the part alone.
        """
        grid = grid.tail(first_step)
        spent = spent if self.nfe is not None else 0
        key = grid.key, spent
        found = self._found.get(key)
        if found is None:
            search = Search(self.kernel.on(grid), self.forecaster or KernelRows(self.kernel))
            steps = (
                self._least(search, len(grid)) if self.max_error is not None else search.best(self._budget(grid, spent))
            )
            found = self._found[key] = check_computed_steps(steps, len(grid))
        return found

    def _budget(self, grid: Grid, spent: int) -> int:
        if spent:
            return rest_of(self.nfe or 1, spent, len(grid))
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

    What a run does up to a step depends on the steps before it only, and is kept: a move late in the run leaves its
    early part as it is. Errors are vectors in a space where the Gram matrix is the identity.
    """

    def __init__(self, kernel: Kernel, forecaster: Forecaster) -> None:
        self._kernel = kernel
        self._grid = kernel.grid
        self._final = kernel.final_weights
        self._forecaster = forecaster
        # Branches are kept apart where the forecaster gives them rows of their own.
        apart = isinstance(forecaster, KernelRows) and forecaster.kernel.branches is not None
        self._branches = kernel.branches if apart else None
        self._features = root_of(kernel.pooled if self._branches is None else self._branches.pooled)
        self._root = self._features if self._branches is None else self._branches.guided @ self._features
        self._ahead = 1
        self._sums: dict[tuple[int, ...], np.ndarray] = {}
        self._reached: dict[tuple[tuple[int, ...], int], tuple[np.ndarray, float]] = {}

    def cost(self, steps: tuple[int, ...]) -> float:
        """Root mean square error of the final sample if ``steps`` compute, in units of the sample."""
        error, answered = self._reach(steps, len(self._grid))
        return math.sqrt(float(error @ error) + answered)

    def _reach(self, before: tuple[int, ...], end: int) -> tuple[np.ndarray, float]:
        """The sample's error at ``end`` if ``before`` computed, and what the network's answers to errors have added."""
        key = (before, end)
        found = self._reached.get(key)
        if found is not None:
            return found
        last = before[-1]
        if len(before) == 1:
            error, answered = np.zeros(self._root.shape[1]), 0.0
        else:
            error, answered = self._reach(before[:-1], last)
            answered += self._kernel.response_to(last, end) * float(error @ error)
        if end > last + 1:
            error = error + self._skipped(before, end)[end - last - 2]
        self._reached[key] = error, answered
        return error, answered

    def _skipped(self, before: tuple[int, ...], end: int) -> np.ndarray:
        """What forecasts add to the error after ``before`` computed: row n for the n + 1 first steps, to ``end``."""
        found = self._sums.get(before)
        first = before[-1] + 1
        if found is None or found.shape[0] < end - first:
            # Rows of one set of computed steps come together cheaply, and the search will ask for longer gaps.
            steps = np.arange(
                first, len(self._grid) if found is not None else max(end, min(first + self._ahead, len(self._grid)))
            )
            forecast = self._forecast(np.array(before), steps)
            found = self._sums[before] = np.cumsum(self._final[steps, None] * (self._root[steps] - forecast), axis=0)
        return found

    def _forecast(self, before: np.ndarray, steps: np.ndarray) -> np.ndarray:
        if self._branches is None or not isinstance(self._forecaster, KernelRows):
            return self._forecaster.segment(before, steps, self._grid) @ self._root[before]
        rows = self._forecaster.branch_segment(before, steps, self._grid) * self._branches.mixing[:, None, None]
        columns = np.add.outer(len(self._grid) * np.arange(len(rows)), before).ravel()
        return np.hstack(list(rows)) @ self._features[columns]

    def best(self, nfe: int) -> tuple[int, ...]:
        """The steps of least cost that were found."""
        total = len(self._grid)
        if nfe >= total:
            return tuple(range(total))
        if math.comb(total - 1, nfe - 1) <= EXHAUSTIVE:
            every = ((0, *rest) for rest in itertools.combinations(range(1, total), nfe - 1))
            return min(every, key=self.cost)
        self._ahead = LONGEST_GAP * math.ceil(total / nfe)
        every = stride(total, nfe)
        if every > 1:
            thinner = Search(self._kernel.on(thinned(self._grid, every)), self._forecaster)
            return self._slide(tuple(every * step for step in thinner.best(nfe)), within=every)
        return min((self._improved(steps) for steps in self._grown(nfe)), key=self.cost)

    def _grown(self, nfe: int) -> list[tuple[int, ...]]:
        """Good sets, grown step by step: of the beginnings of equal length and last step only the best few go on."""
        total = len(self._grid)
        beginnings: dict[int, list[tuple[int, ...]]] = {0: [(0,)]}
        for count in range(1, nfe):
            longer: dict[int, list[tuple[float, tuple[int, ...]]]] = {}
            for last, kept in beginnings.items():
                for step in range(last + 1, min(total - nfe + count, last + self._ahead) + 1):
                    longer.setdefault(step, []).extend((self._so_far(steps, step), (*steps, step)) for steps in kept)
            beginnings = {step: [steps for _, steps in sorted(found)[:BEAM]] for step, found in longer.items()}
            self._forget(count)
        return sorted(itertools.chain(*beginnings.values()), key=self.cost)[:FINALISTS]

    def _forget(self, count: int) -> None:
        """Let go of what was found of beginnings of ``count`` steps: they are not grown again."""
        self._sums = {before: found for before, found in self._sums.items() if len(before) != count}

    def _so_far(self, before: tuple[int, ...], end: int) -> float:
        error, answered = self._reach(before, end)
        return float(error @ error) + answered

    def _improved(self, steps: tuple[int, ...]) -> tuple[int, ...]:
        while True:
            moved = self._slide(steps)
            steps = min(self._jumps(moved), key=self.cost, default=moved)
            if self.cost(steps) >= self.cost(moved):
                return moved

    def _jumps(self, steps: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Sets in which one step is taken out and put down elsewhere."""
        free = sorted(set(range(1, len(self._grid))) - set(steps))
        for taken in steps[1:]:
            left = [step for step in steps if step != taken]
            for place in free:
                yield tuple(sorted([*left, place]))

    def _slide(self, steps: tuple[int, ...], fixed: int = 1, within: int | None = None) -> tuple[int, ...]:
        """Move each step after the ``fixed`` first between its neighbours to the best place until none moves.

        Args:
            steps: a set of computed steps.
            fixed: how many stay.
            within: how far a step moves at most at a time; by default to any place.
        """
        within = within or len(self._grid)
        while True:
            before = steps
            for index in range(len(steps) - 1, fixed - 1, -1):
                end = steps[index + 1] if index + 1 < len(steps) else len(self._grid)
                places = range(max(steps[index - 1] + 1, steps[index] - within), min(end, steps[index] + within + 1))
                steps = min(((*steps[:index], place, *steps[index + 1 :]) for place in places), key=self.cost)
            if self.cost(steps) >= self.cost(before):
                return before


def root_of(pooled: np.ndarray) -> np.ndarray:
    """Vectors, a row a feature, whose inner products are ``pooled`` to rounding; of as few dimensions as they span."""
    values, vectors = np.linalg.eigh(pooled)
    kept = values > len(values) * np.finfo(values.dtype).eps * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def stride(total: int, nfe: int) -> int:
    """Every how many steps a run of ``total`` is searched for ``nfe`` first; 1 is all."""
    return max(1, min(math.ceil(total / FINE), total // (2 * nfe)))


def thinned(grid: Grid, every: int) -> Grid:
    """The grid of every n-th step, from the first on."""
    return Grid(grid.levels[::every], grid.unit, grid.final_level)
