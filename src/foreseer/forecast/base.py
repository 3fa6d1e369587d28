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

    def row(self, computed_steps: Sequence[int], step: int, grid: Grid) -> Float64[np.ndarray, " K"]:
        """The weights of the K computed steps in the forecast of ``step``.

        Args:
            computed_steps: the computed steps before ``step``, ascending; the first must be 0.
            step: the step to forecast.
            grid: the run's noise levels.

        Raises:
            ForecastError: the steps are unsorted, empty, not before ``step`` or not on the grid, or the forecaster
                has no row for them.
        """
        computed = np.asarray(computed_steps, dtype=np.int64)
        if computed.ndim != 1 or computed.size == 0:
            raise ForecastError(f"Nothing to forecast step {step} from: the computed steps are {computed_steps!r}.")
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

    @abstractmethod
    def _weights(self, computed: np.ndarray, step: int, grid: Grid) -> np.ndarray: ...


def check_order(order: int, least: int, most: int) -> None:
    """Refuse an order that the method does not have."""
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or not least <= order <= most:
        raise ForecastError(f"order is {order!r}; expected an integer from {least} to {most}.")
