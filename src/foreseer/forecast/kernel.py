"""Kernel rows: the best linear unbiased forecast that second moments allow."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from foreseer.errors import ForecastError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
from foreseer.kernel import Kernel

REGULAR = 1e-12  # a ridge of this share of the trace makes a matrix of second moments regular in float64


@dataclass(frozen=True, eq=False)
class KernelRows(Forecaster):
    r"""$w = (G_{SS} + \mu I)^{-1} (G_{Si} + \mu w_0)$, $\mu = \lambda \operatorname{tr} G_{SS} / |S|$.

    Ridge regression of the feature at step i on the computed ones (kriging), shrinking toward a prior row $w_0$ (zero
    unless a forecaster is given). On a grid other than the kernel's, the kernel is interpolated along the noise level.

    Args:
        kernel: second moments from calibration.
        ridge: lambda, relative to the mean square of the features; at least 0.
        prior: whose row to shrink toward.
        sum_to_one: constrain the weights to sum to one, so that constants are forecast exactly.

    Raises:
        ForecastError: the ridge is negative or not finite; or, asked for a row, the kernel cannot cover the grid.
    """

    kernel: Kernel = field(repr=False)
    ridge: float = 1e-6
    prior: Forecaster | None = None
    sum_to_one: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.ridge) and self.ridge >= 0):
            raise ForecastError(f"ridge is {self.ridge}; expected a finite number of at least 0.")

    def __repr__(self) -> str:
        return (
            f"KernelRows({self.kernel!r}, ridge={self.ridge!r}, prior={self.prior!r}, sum_to_one={self.sum_to_one!r})"
        )

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        among = self.kernel.on(grid).pooled[computed]
        system, targets = among[:, computed], among[:, steps]
        strength = self.ridge * float(system.trace()) / computed.size
        if self.prior is not None:
            targets = targets + strength * self.prior.segment(computed, steps, grid).T
        return ridge_solve(system, targets, strength, 1.0 if self.sum_to_one else None).T


def ridge_solve(system: np.ndarray, targets: np.ndarray, strength: float, total: float | None = None) -> np.ndarray:
    """Solve (system + strength I) w = target, optionally with sum(w) = total; least norm where it is singular.

    Args:
        system: shape (K, K), positive semi-definite.
        targets: shape (K,), or (K, N) for N of them.
        strength: at least 0.
        total: what each solution's weights sum to; ``None`` for no such constraint.
    """
    shifted = system.copy()
    shifted.flat[:: system.shape[0] + 1] += strength
    free = _solve(shifted, targets, strength)
    if total is None:
        return free
    along = _solve(shifted, np.ones(system.shape[0]), strength)
    missing = (total - free.sum(axis=0)) / along.sum()
    return free + np.multiply.outer(along, missing)


def _solve(matrix: np.ndarray, target: np.ndarray, strength: float) -> np.ndarray:
    try:
        if strength < REGULAR * float(matrix.trace()):
            np.linalg.cholesky(matrix)  # fails where the matrix is singular to rounding
        return np.linalg.solve(matrix, target)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(matrix, target, rcond=None)[0]
