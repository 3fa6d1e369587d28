"""Spectrum: ridge regression on Chebyshev polynomials of the step, over all computed features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foreseer.checks import check_count, check_number
from foreseer.errors import ForecastError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid

TimeMapping = Literal["steps", "published", "noise"]


@dataclass(frozen=True)
class Chebyshev(Forecaster):
    r"""Spectrum's forecast (arXiv 2603.01623, section 3.3): fit and prediction combined into one row.

    $w^T = \phi(\tau^*)^T (\Phi^T \Phi + \lambda I)^{-1} \Phi^T$ with $\phi = (T_0, \dots, T_M)$ and one row of $\Phi$
    per computed step. The blend is b Chebyshev + (1 - b) Newton's forward differences in units of the last gap.

    Args:
        degree: M, degree of the highest Chebyshev polynomial.
        ridge: lambda, at least 0 (0: least squares solution of least norm).
        window: number of last computed steps in use (the paper's K); ``None`` for all.
        blend: b, share of the Chebyshev forecast, 0 to 1; the paper's default is 1.
        newton_order: order of the forward differences in the blend, 1 to 3.
        mapping: mapping of step i to tau in [-1, 1]. ``"steps"``: 2 i / T - 1, the published mapping for any T.
            ``"published"``: 2 i / 50 - 1 for any T. ``"noise"``: linear in the noise level.

    Raises:
        ForecastError: an option is out of range.

    >>> row = Chebyshev(degree=4, ridge=0.1).row((0, 1, 2, 3, 4), 5, Grid.uniform(50))
    >>> round(float(row.sum()), 3)
    0.939
    """

    degree: int = 4
    ridge: float = 0.1
    window: int | None = None
    blend: float = 1.0
    newton_order: int = 1
    mapping: TimeMapping = "steps"

    def __post_init__(self) -> None:
        check_count("degree", self.degree, ForecastError)
        check_number("ridge", self.ridge, ForecastError)
        if self.window is not None:
            check_count("window", self.window, ForecastError, least=1)
        check_number("blend", self.blend, ForecastError, most=1)
        check_count("newton_order", self.newton_order, ForecastError, least=1, most=3)
        if self.mapping not in ("steps", "published", "noise"):
            raise ForecastError(f"Unknown mapping {self.mapping!r}: expected 'steps', 'published' or 'noise'.")

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        weights = np.zeros((steps.size, computed.size))
        used = computed if self.window is None else computed[-self.window :]
        tau = self._tau(np.append(used, steps), grid)
        basis = np.polynomial.chebyshev.chebvander(tau, self.degree)
        weights[:, -used.size :] = self.blend * ridge_rows(basis[: used.size], basis[used.size :], self.ridge)
        if self.blend < 1:
            forward = [forward_difference_row(computed, step, self.newton_order) for step in steps.tolist()]
            weights += (1 - self.blend) * np.array(forward)
        return weights

    def _tau(self, steps: np.ndarray, grid: Grid) -> np.ndarray:
        if self.mapping == "noise":
            high, low = float(grid.levels[0]), grid.final_level
            return 1.0 - 2.0 * (high - grid.levels[steps]) / (high - low) if high > low else np.zeros(steps.size)
        return 2.0 * steps / (50 if self.mapping == "published" else len(grid)) - 1.0


def ridge_rows(design: np.ndarray, targets: np.ndarray, ridge: float) -> np.ndarray:
    r"""Return $\phi^T (\Phi^T \Phi + \lambda I)^{-1} \Phi^T$ per target, by SVD (for small lambda)."""
    left, singular, right = np.linalg.svd(design, full_matrices=False)
    kept = singular > singular[0] * max(design.shape) * np.finfo(np.float64).eps
    filtered = np.divide(singular, singular**2 + ridge, out=np.zeros_like(singular), where=kept)
    return ((targets @ right.T) * filtered) @ left.T


def forward_difference_row(computed: np.ndarray, step: int, order: int) -> np.ndarray:
    r"""Return Newton's forward-difference row in units of the last gap, as in the released code.

    $\sum_k \binom{u}{k} \nabla^k F_s$ with s the last computed step and u the steps since s divided by the last gap.
    The computed steps are treated as equally spaced.
    """
    weights = np.zeros(computed.size)
    gap = computed[-1] - computed[-2] if computed.size > 1 else 1
    u = (step - computed[-1]) / gap
    factor = 1.0
    for k in range(min(order, computed.size - 1) + 1):
        for m in range(k + 1):
            weights[-1 - m] += factor * (-1) ** m * math.comb(k, m)
        factor *= (u - k) / (k + 1)
    return weights
