"""Expected final errors of sets of computed steps, and the search for the least."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from foreseer.forecast.base import Forecaster
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.forecast.least_squares import ridge_solve
from foreseer.grid import Grid
from foreseer.kernel import Kernel

EXHAUSTIVE = 3000  # try every set of steps if there are at most this many
BEAM = 8  # prefixes kept per length and last step
FINALISTS = 4  # complete sets that are improved step by step
LONGEST_GAP = 4  # between two computed steps, in mean gaps
FINE = 64  # longer grids are searched on every n-th step first
REFINED = 32  # sets of more steps, spread over a long run, are not moved singly
GAIN = 1e-3  # least relative gain of a pass over a long run


class Search:
    """Expected final errors of sets of computed steps, and the search for the least.

    The error at a step depends only on the computed steps before it and is cached, so changing a late step reuses the
    early part. Errors are vectors in coordinates in which the Gram matrix is the identity.
    """

    def __init__(self, kernel: Kernel, forecaster: Forecaster) -> None:
        self._kernel = kernel
        self._grid = kernel.grid
        self._final = kernel.final_weights
        self._forecaster = forecaster
        # Branches are separate if the forecaster has separate rows for them.
        separate = isinstance(forecaster, KernelRows) and forecaster.kernel.branches is not None
        self._branches = kernel.branches if separate else None
        self._features = root_of(kernel.pooled if self._branches is None else self._branches.pooled)
        self._root = self._features if self._branches is None else self._branches.guided @ self._features
        self._feedback_gain = forecaster.feedback_gain if isinstance(forecaster, KernelRows) else 0.0
        self._ahead = 1
        self._errors: dict[tuple[int, ...], np.ndarray] = {}
        self._reached: dict[tuple[int, ...], tuple[np.ndarray, float]] = {}

    def cost(self, steps: tuple[int, ...]) -> float:
        """Return the expected root mean square error of the final sample, in units of the sample."""
        return math.sqrt(self._squares(steps, np.array([len(self._grid)]))[0])

    def _squares(self, before: tuple[int, ...], ends: np.ndarray) -> np.ndarray:
        """Return the squared expected error of the sample at each of ``ends``, after steps ``before``."""
        error, propagated = self._reach(before)
        errors = self._errors_after(before, int(ends[-1]))[ends - before[-1] - 1]
        factors = self._kernel.propagation(before[-1], ends)
        return np.einsum("nk,nk->n", errors, errors) + propagated + factors * float(error @ error)

    def _reach(self, before: tuple[int, ...]) -> tuple[np.ndarray, float]:
        """Return the sample's error at the last of the steps, and the squares propagated before it."""
        reached = self._reached.get(before)
        if reached is None:
            if len(before) == 1:
                reached = np.zeros(self._root.shape[1]), 0.0
            else:
                *earlier, last = before
                error, propagated = self._reach(tuple(earlier))
                propagated += float(self._kernel.propagation(earlier[-1], last)) * float(error @ error)
                reached = self._errors_after(tuple(earlier), last)[last - earlier[-1] - 1], propagated
            self._reached[before] = reached
        return reached

    def _errors_after(self, before: tuple[int, ...], end: int) -> np.ndarray:
        """Return the sample's errors from the step after ``before`` to ``end`` or further, a row each."""
        errors = self._errors.get(before)
        first = before[-1] + 1
        if errors is None or errors.shape[0] <= end - first:
            # Rows from the same computed steps are cheap together, and the search will ask for longer gaps.
            total = len(self._grid)
            steps = np.arange(first, total if errors is not None else max(end, min(first + self._ahead, total)))
            errors = np.tile(self._reach(before)[0], (steps.size + 1, 1))
            if steps.size:
                missed = self._root[steps] - self._forecast(np.array(before), steps)
                errors[1:] += np.cumsum(self._final[steps, None] * missed, axis=0)
                if self._feedback_gain:
                    errors[1:] -= self._feedback_gain * self._spanned(np.array(before), errors[1:])
            self._errors[before] = errors
        return errors

    def _spanned(self, before: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """Return the part of the errors that the features computed so far span, to the rows' ridge.

        As :class:`foreseer.forecast.joint_rows.JointRows` corrects it.
        """
        assert isinstance(self._forecaster, KernelRows)
        features = self._features[self._columns(before)]
        system = features @ features.T
        strength = self._forecaster.ridge * float(system.trace()) / len(system)
        return ridge_solve(system, features @ errors.T, strength).T @ features

    def _columns(self, before: np.ndarray) -> np.ndarray:
        """Return the indices of the features of all branches at steps ``before``."""
        count = 1 if self._branches is None else len(self._branches.names)
        return np.add.outer(len(self._grid) * np.arange(count), before).ravel()

    def _forecast(self, before: np.ndarray, steps: np.ndarray) -> np.ndarray:
        if self._branches is None or not isinstance(self._forecaster, KernelRows):
            return self._forecaster.segment(before, steps, self._grid) @ self._root[before]
        rows = self._forecaster.branch_segment(before, steps, self._grid) * self._branches.mixing[:, None, None]
        return np.hstack(list(rows)) @ self._features[self._columns(before)]

    def best(self, nfe: int) -> tuple[int, ...]:
        """Return the steps of least cost that were found."""
        total = len(self._grid)
        if nfe >= total:
            return tuple(range(total))
        if math.comb(total - 1, nfe - 1) <= EXHAUSTIVE:
            return min(((0, *rest) for rest in itertools.combinations(range(1, total), nfe - 1)), key=self.cost)
        every = stride(total)
        if every > 1:
            coarse = Search(self._kernel.on(thinned(self._grid, every)), self._forecaster)
            found = coarse._slid(coarse_budget(total, nfe))[0]
            steps = spread(tuple(every * step for step in found), nfe, total)
            self._ahead = LONGEST_GAP * math.ceil(total / nfe)
            return steps if nfe > REFINED else self._halved(steps, every)
        return min((self._improved(steps) for steps in self._slid(nfe)), key=self.cost)

    def _slid(self, nfe: int) -> list[tuple[int, ...]]:
        """Return a few good sets, the best first, none of whose steps gains by moving between its neighbours."""
        self._ahead = LONGEST_GAP * math.ceil(len(self._grid) / nfe)
        return sorted(map(self._slide, self._grown(nfe)), key=self.cost)

    def _grown(self, nfe: int) -> list[tuple[int, ...]]:
        """Grow sets step by step, keeping the best few prefixes per length and last step."""
        total = len(self._grid)
        prefixes: dict[int, list[tuple[int, ...]]] = {0: [(0,)]}
        for count in range(1, nfe):
            longer: dict[int, list[tuple[float, tuple[int, ...]]]] = {}
            for last, kept in prefixes.items():
                ends = np.arange(last + 1, min(total - nfe + count, last + self._ahead) + 1)
                for steps in kept if ends.size else ():
                    for step, square in zip(ends.tolist(), self._squares(steps, ends).tolist(), strict=True):
                        longer.setdefault(step, []).append((square, (*steps, step)))
            prefixes = {step: [steps for _, steps in sorted(scored)[:BEAM]] for step, scored in longer.items()}
            # Prefixes of this length are not grown again: free their errors.
            self._errors = {before: errors for before, errors in self._errors.items() if len(before) != count}
        return sorted(itertools.chain(*prefixes.values()), key=self.cost)[:FINALISTS]

    def _improved(self, steps: tuple[int, ...]) -> tuple[int, ...]:
        while True:
            moved = self._slide(steps)
            steps = min(self._jumps(moved), key=self.cost, default=moved)
            if self.cost(steps) >= self.cost(moved):
                return moved

    def _jumps(self, steps: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Yield the sets in which one step is moved to any free place."""
        free = sorted(set(range(1, len(self._grid))) - set(steps))
        for moved in steps[1:]:
            others = [step for step in steps if step != moved]
            for target in free:
                yield tuple(sorted([*others, target]))

    def _slide(self, steps: tuple[int, ...], fixed: int = 1) -> tuple[int, ...]:
        """Move all but the first ``fixed`` steps to the best place between their neighbours."""
        while True:
            before = steps
            for index in range(len(steps) - 1, fixed - 1, -1):
                end = steps[index + 1] if index + 1 < len(steps) else len(self._grid)
                targets = range(steps[index - 1] + 1, end)
                steps = min(((*steps[:index], target, *steps[index + 1 :]) for target in targets), key=self.cost)
            if self.cost(steps) >= self.cost(before):
                return before

    def _halved(self, steps: tuple[int, ...], every: int, fixed: int = 1) -> tuple[int, ...]:
        """Move steps by half of ``every``, then a quarter, and so on, while it helps."""
        while (every := every // 2) > 0:
            before = math.inf
            while self.cost(steps) < before * (1 - GAIN):
                before = self.cost(steps)
                for index in range(len(steps) - 1, fixed - 1, -1):
                    end = steps[index + 1] if index + 1 < len(steps) else len(self._grid)
                    targets = (steps[index] + shift for shift in (0, -every, every))
                    inside = (target for target in targets if steps[index - 1] < target < end)
                    steps = min(((*steps[:index], target, *steps[index + 1 :]) for target in inside), key=self.cost)
        return steps


def root_of(pooled: np.ndarray) -> np.ndarray:
    """Factor ``pooled``: rows whose inner products are ``pooled`` to rounding, in the fewest dimensions."""
    values, vectors = np.linalg.eigh(pooled)
    kept = values > len(values) * np.finfo(values.dtype).eps * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def stride(total: int) -> int:
    """Return n such that a run of ``total`` steps is searched on every n-th step first."""
    return math.ceil(total / FINE)


def coarse_budget(total: int, nfe: int) -> int:
    """Return the budget of the first search of a long run: at most half its steps, or the run's share."""
    coarse = math.ceil(total / stride(total))
    return min(nfe, max(coarse // 2, nfe * coarse // total))


def spread(steps: Sequence[int], count: int, total: int) -> tuple[int, ...]:
    """Return ``count`` steps of a run of ``total`` that are as dense at each place as ``steps``.

    >>> spread((0, 2, 6), 6, 12)
    (0, 1, 2, 4, 6, 9)
    """
    if count == len(steps):
        return tuple(steps)
    places = np.interp(np.arange(count) * len(steps) / count, np.arange(len(steps) + 1), [*steps, total])
    ahead = np.arange(count)
    ascending = np.maximum.accumulate(np.floor(places).astype(int) - ahead) + ahead
    return tuple(np.minimum(ascending, total - count + ahead).tolist())


def thinned(grid: Grid, every: int) -> Grid:
    """Return the grid of every n-th step, starting with the first."""
    return Grid(grid.levels[::every], grid.unit, grid.final_level)
