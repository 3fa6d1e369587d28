"""What a forecaster is: it turns computed steps into one row of weights a skipped step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from foreseer.errors import ForecastError
from foreseer.grid import Grid


class Forecaster(ABC):
    r"""A forecast is $\hat F_i = \sum_{\text{computed } j < i} w_{ij} F_j$; a forecaster gives the row $w_i$.

    Subclasses are frozen dataclasses; what they know of a run is its computed steps and its grid.
    """

    def row(self, computed_steps: Sequence[int] | np.ndarray, step: int, grid: Grid) -> Float64[np.ndarray, " K"]:
        """The weights of the K computed steps in the forecast of ``step``.

        Args:
            computed_steps: the computed steps before ``step``, ascending; the first must be 0.
            step: the step to forecast.
            grid: the run's noise levels.

        Raises:
            ForecastError: the steps are unsorted, empty, not before ``step`` or not on the grid, or the forecaster
                has no row for them.
        """
        computed = np.asarray(computed_steps)
        if computed.ndim != 1 or computed.size == 0:
            raise ForecastError(f"Nothing to forecast step {step} from: the computed steps are {computed_steps!r}.")
        if computed.dtype.kind not in "iu":
            raise ForecastError(f"Computed steps must be integers, received {computed_steps!r}.")
        if computed[0] != 0 or np.any(np.diff(computed) <= 0) or computed[-1] >= step:
            raise ForecastError(
                f"The computed steps {tuple(computed.tolist())} must ascend from 0 and stay below step {step}."
            )
        if step >= len(grid):
            raise ForecastError(f"Step {step} is not on a grid of {len(grid)} steps.")
        weights = np.asarray(self._weights(computed, step, grid), dtype=np.float64)
        if weights.shape != computed.shape or not np.all(np.isfinite(weights)):
            raise ForecastError(f"{self!r} has no finite row for step {step} from {tuple(computed.tolist())}.")
        return weights

    def rows(self, computed_steps: Sequence[int] | np.ndarray, grid: Grid) -> Float64[np.ndarray, "T T"]:
        """The rows of a whole run: unit rows at computed steps, forecasts elsewhere; shape (T, T).

        Raises:
            ForecastError: as :meth:`row`.
        """
        rows = np.eye(len(grid))
        computed = np.asarray(computed_steps, dtype=np.int64)
        for step in np.setdiff1d(np.arange(len(grid)), computed).tolist():
            before = computed[computed < step]
            rows[step] = 0.0
            rows[step, before] = self.row(before, step, grid)
        return rows

    def weighted_rows(
        self, computed_steps: Sequence[int] | np.ndarray, steps: Sequence[int], weights: Sequence[float], grid: Grid
    ) -> Float64[np.ndarray, " K"]:
        """The sum of ``weights[n]`` times the row of ``steps[n]``, all from the same computed steps."""
        rows = [weight * self.row(computed_steps, step, grid) for step, weight in zip(steps, weights, strict=True)]
        return np.sum(rows, axis=0) if rows else np.zeros(len(computed_steps))

    @abstractmethod
    def _weights(self, computed: np.ndarray, step: int, grid: Grid) -> np.ndarray: ...


def check_order(order: int, least: int, most: int) -> None:
    """Refuse an order that the method does not have."""
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or not least <= order <= most:
        raise ForecastError(f"order is {order!r}; expected an integer from {least} to {most}.")
