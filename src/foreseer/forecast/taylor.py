"""TaylorSeer: a Taylor polynomial with finite differences as derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from foreseer.checks import check_count
from foreseer.errors import ForecastError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid


@dataclass(frozen=True)
class TaylorSeer(Forecaster):
    r"""Taylor forecast from recursive differences (TaylorSeer, arXiv 2503.06923, as in the released code).

    At each computed step $d_0 = F$ and $d_{k+1} = (d_k - d_k^{\text{previous}}) / g$, with g the distance in steps to
    the previous computed step, for each k that the previous step has, up to ``order``. The forecast x steps after the
    last computed step is $\sum_k d_k x^k / k!$. This is *not* Newton's interpolation: from order 2 on it is not exact
    on polynomials of its order (:class:`foreseer.forecast.Newton` is).

    Args:
        order: order of the highest difference, 0 (reuse) to 4; lower at early steps with fewer computed steps.
        first_enhance: differences start at computed step ``first_enhance - 1``; 3 in the FLUX setting.

    Raises:
        ForecastError: an option is out of range.

    >>> TaylorSeer(order=1).row((0, 1, 2, 6), 8, Grid.uniform(10)).tolist()
    [0.0, 0.0, -0.5, 1.5]
    """

    order: int = 2
    first_enhance: int = 3

    def __post_init__(self) -> None:
        check_count("order", self.order, ForecastError, most=4)
        check_count("first_enhance", self.first_enhance, ForecastError)

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        x = (steps - computed[-1]).astype(np.float64)
        differences = recursive_differences(computed, self.order, self.first_enhance)
        return sum(
            (np.outer(x**k / math.factorial(k), difference) for k, difference in enumerate(differences)),
            start=np.zeros((steps.size, computed.size)),
        )


def recursive_differences(computed: np.ndarray, order: int, first_enhance: int) -> list[np.ndarray]:
    r"""Return the rows of $d_0, d_1, \dots$ at the last computed step; see :class:`TaylorSeer`."""
    units = np.eye(computed.size)
    differences = [units[0]]
    for index in range(1, computed.size):
        gap = computed[index] - computed[index - 1]
        updated = [units[index]]
        if computed[index] >= first_enhance - 1:
            for previous in differences[:order]:
                updated.append((updated[-1] - previous) / gap)
        differences = updated
    return differences
