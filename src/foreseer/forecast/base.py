"""The interface of forecasters, which turn computed steps into one row of weights per skipped step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from foreseer.checks import check_kind
from foreseer.errors import ForecastError
from foreseer.grid import Grid

NONE: Mapping[str, Sequence[int]] = MappingProxyType({})
NOTHING: Mapping[str, str] = MappingProxyType({})


class Forecaster(ABC):
    r"""Source of the row $w_i$ in the forecast $\hat F_i = \sum_{\text{computed } j < i} w_{ij} F_j$.

    Subclasses are frozen dataclasses; rows depend on the computed steps and the grid only.
    """

    @property
    def learned_on(self) -> Mapping[str, str]:
        """Provenance of learned rows, as in a kernel; empty for a formula."""
        return NOTHING

    @property
    def ignores_levels(self) -> bool:
        """Whether rows depend on the computed steps alone, not on the noise levels."""
        return False

    @property
    def joins_visits(self) -> bool:
        """Whether rows combine all visits of a level that the scheduler visits more than once (Heun, PNDM).

        Formulas are applied to first visits, second visits, ... apart.
        """
        return False

    @property
    def depends_on_next_step(self) -> bool:
        """True if rows of skipped steps depend on where the next computed step is."""
        return False

    def expected_error(
        self, grid: Grid, rows: np.ndarray, branch_rows: Mapping[str, np.ndarray], cross_rows: Mapping[Any, np.ndarray]
    ) -> float | None:
        """Return the expected relative error of the final sample under a plan's rows; ``None`` by default."""
        return None

    def row(self, computed_steps: Sequence[int] | np.ndarray, step: int, grid: Grid) -> Float64[np.ndarray, " K"]:
        """Return the weights of the K computed steps in the forecast of ``step``.

        Args:
            computed_steps: the computed steps before ``step``, ascending from 0.
            step: the step to forecast.
            grid: the run's noise levels.

        Raises:
            ForecastError: the steps are unsorted, empty, not before ``step`` or not on the grid, or the forecaster
                has no row for them.
        """
        return self.segment(computed_steps, [step], grid)[0]

    def segment(
        self, computed_steps: Sequence[int] | np.ndarray, steps: Sequence[int] | np.ndarray, grid: Grid
    ) -> Float64[np.ndarray, "N K"]:
        """Return the rows of several steps, all from the same computed steps.

        Raises:
            ForecastError: as :meth:`row`.
        """
        check_kind("grid", grid, Grid, ForecastError)
        computed, wanted = as_steps(computed_steps), as_steps(steps)
        if computed[0] != 0 or (computed[1:] <= computed[:-1]).any() or computed[-1] >= wanted.min():
            raise ForecastError(
                f"The computed steps {tuple(computed.tolist())} must ascend from 0 and stay below step {wanted.min()}."
            )
        if wanted.max() >= len(grid):
            raise ForecastError(f"Step {wanted.max()} is not on a grid of {len(grid)} steps.")
        weights = np.asarray(self._weights(computed, wanted, grid), dtype=np.float64)
        if weights.shape != (wanted.size, computed.size) or not np.isfinite(weights).all():
            steps_text = f"{wanted.tolist()} from {tuple(computed.tolist())}"
            raise ForecastError(f"{self!r} has no finite row for one of the steps {steps_text}.")
        return weights

    def rows(self, computed_steps: Sequence[int] | np.ndarray, grid: Grid) -> Float64[np.ndarray, "T T"]:
        """Return the rows of a whole run, shape (T, T): unit rows at computed steps, forecasts elsewhere.

        Raises:
            ForecastError: as :meth:`row`.
        """
        check_kind("grid", grid, Grid, ForecastError)
        rows = np.eye(len(grid))
        for before, steps in segments_of(computed_steps, len(grid)):
            rows[steps] = 0.0
            rows[np.ix_(steps, before)] = self.segment(before, steps, grid)
        return rows

    def branch_rows(
        self,
        computed_steps: Sequence[int] | np.ndarray,
        grid: Grid,
        branch_steps: Mapping[str, Sequence[int]] = NONE,
    ) -> Mapping[str, Float64[np.ndarray, "T T"]]:
        """Return separate rows of branches of a guided run, by name; other branches share :meth:`rows`.

        Args:
            computed_steps: the steps at which any branch computes.
            grid: the run's noise levels.
            branch_steps: the computed steps of each branch that skips some of ``computed_steps``.

        Raises:
            ForecastError: as :meth:`row`.
        """
        return {name: self.rows(steps, grid) for name, steps in branch_steps.items()}

    def cross_rows(
        self,
        computed_steps: Sequence[int] | np.ndarray,
        grid: Grid,
        branch_steps: Mapping[str, Sequence[int]] = NONE,
    ) -> Mapping[tuple[str, str], Float64[np.ndarray, "T T"]]:
        """Return additional rows over another branch's features, by (branch, other).

        The other branch is called first, so row i may include the feature that it computed at step i.

        Raises:
            ForecastError: as :meth:`row`.
        """
        return {}

    def part_rows(
        self, computed_steps: Sequence[int] | np.ndarray, grid: Grid
    ) -> Mapping[str, Float64[np.ndarray, "T T"]]:
        """Return separate rows of parts of a feature, by name; other parts share the rows of their branch.

        Parts are the network's modules, by their paths, or the further tensors of a feature, as
        :func:`foreseer.kernel.parts.tensor_names` names them.

        Raises:
            ForecastError: as :meth:`row`.
        """
        return {}

    @abstractmethod
    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        """Return the rows of ``steps``, shape (N, K)."""


def as_steps(steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """Convert steps to a one-dimensional array.

    Raises:
        ForecastError: there is no step, or the steps are not whole numbers.
    """
    try:
        array = np.asarray(steps)
    except (TypeError, ValueError) as error:
        raise ForecastError(f"Steps must be whole numbers in one list, received {steps!r}.") from error
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise ForecastError(f"Steps must be whole numbers in one list, at least one; received {steps!r}.")
    return array


def segments_of(
    computed_steps: Sequence[int] | np.ndarray, total: int
) -> Iterator[tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " N"]]]:
    """Yield each run of consecutive skipped steps, after the computed steps before it.

    Raises:
        ForecastError: the computed steps are not whole numbers, or not on the grid.
    """
    computed = as_steps(computed_steps).astype(np.int64)
    if computed[-1] >= total:
        raise ForecastError(f"Step {computed[-1]} is not on a grid of {total} steps.")
    for index, end in enumerate((*computed[1:].tolist(), total), start=1):
        before = computed[:index]
        steps = np.arange(before[-1] + 1, end)
        if steps.size:
            yield before, steps
