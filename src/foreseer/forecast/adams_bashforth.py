"""Adams-Bashforth: the interpolating polynomial of the last computed features, averaged over the step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreseer.checks import check_count
from foreseer.errors import ForecastError
from foreseer.forecast.base import Forecaster
from foreseer.forecast.newton import newton_weights
from foreseer.grid import Grid


@dataclass(frozen=True)
class AdamsBashforth(Forecaster):
    r"""Variable-step Adams-Bashforth formula as a row over computed features.

    $w_j = \frac{1}{t_{i+1} - t_i} \int_{t_i}^{t_{i+1}} \ell_j(t)\, dt$, with $\ell_j$ the Lagrange polynomials of the
    last ``order`` computed noise levels. With this forecast, an Euler step integrates the interpolating polynomial
    exactly over $[t_i, t_{i+1}]$ (Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I", III.5).
    Time is the noise level; the last step ends at the grid's ``final_level``.

    Args:
        order: number of computed features in the row, 1 (reuse) to 5; early steps use those that exist.

    Raises:
        ForecastError: the order is out of range.

    >>> AdamsBashforth(order=2).row((0, 1), 2, Grid.uniform(4)).tolist()
    [-1.5, 2.5]
    """

    order: int = 2

    def __post_init__(self) -> None:
        check_count("order", self.order, ForecastError, least=1, most=5)

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        nodes = grid.levels[computed[-self.order :]]
        levels = np.append(grid.levels, grid.final_level)
        # Gauss-Legendre with n points integrates degree 2 n - 1; the interpolating polynomial has degree order - 1.
        points, quadrature = np.polynomial.legendre.leggauss((nodes.size + 1) // 2)
        weights = np.zeros((steps.size, computed.size))
        for row, step in zip(weights, steps.tolist(), strict=True):
            start, end = levels[step : step + 2].tolist()
            for point, share in zip(points, quadrature / 2, strict=True):
                row[-nodes.size :] += share * newton_weights(nodes, (start + end) / 2 + (end - start) / 2 * point)
        return weights
