"""Kernel rows: the best linear unbiased forecast that second moments allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from foreseer.errors import ForecastError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
from foreseer.kernel import Kernel


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

    def _weights(self, computed: np.ndarray, step: int, grid: Grid) -> np.ndarray:
        return self.weighted_rows(computed, [step], [1.0], grid)

    def weighted_rows(
        self, computed_steps: Sequence[int] | np.ndarray, steps: Sequence[int], weights: Sequence[float], grid: Grid
    ) -> Float64[np.ndarray, " K"]:
        """The sum of weighted rows, by one solve: a row is affine in its target."""
        gram = self.kernel.on(grid).pooled
        computed, wanted = np.asarray(computed_steps), np.asarray(weights, dtype=np.float64)
        system = gram[np.ix_(computed, computed)]
        target = gram[np.ix_(computed, np.asarray(steps, dtype=np.int64))] @ wanted
        strength = self.ridge * float(np.trace(system)) / computed.size
        if self.prior is not None:
            target = target + strength * self.prior.weighted_rows(computed, steps, weights, grid)
        return ridge_solve(system, target, strength, float(wanted.sum()) if self.sum_to_one else None)


def ridge_solve(system: np.ndarray, target: np.ndarray, strength: float, total: float | None = None) -> np.ndarray:
    """Solve (system + strength I) w = target, optionally with sum(w) = total; least norm where it is singular."""
    shifted = system.copy()
    shifted.flat[:: system.shape[0] + 1] += strength
    if total is None:
        return _solve(shifted, target)
    free, along = _solve(shifted, target), _solve(shifted, np.ones(target.size))
    return free + along * (total - free.sum()) / along.sum()


def _solve(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    try:
        np.linalg.cholesky(matrix)  # fails where the matrix is singular to rounding
        return np.linalg.solve(matrix, target)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(matrix, target, rcond=None)[0]
