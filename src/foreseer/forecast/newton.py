"""Newton's divided differences: the interpolating polynomial through the last computed features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foreseer.checks import check_count
from foreseer.errors import ForecastError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid

TimeUnit = Literal["step", "noise"]


def node_times(computed: np.ndarray, grid: Grid, unit: TimeUnit) -> np.ndarray:
    """Return the times of the computed steps: step indices or noise levels."""
    return computed.astype(np.float64) if unit == "step" else grid.levels[computed]


def newton_weights(nodes: np.ndarray, target: float) -> np.ndarray:
    r"""Return the weights of values at ``nodes`` in their interpolating polynomial at ``target``.

    $p(t) = \sum_k f[t_0..t_k] \prod_{m<k} (t - t_m)$, with the divided differences $f[\cdot]$ kept as weight rows.
    """
    table = np.eye(nodes.size)
    weights = table[0].copy()
    product = 1.0
    for k in range(1, nodes.size):
        table = (table[1:] - table[:-1]) / (nodes[k:] - nodes[:-k])[:, None]
        product *= target - nodes[k - 1]
        weights += product * table[0]
    return weights


@dataclass(frozen=True)
class Newton(Forecaster):
    """Polynomial extrapolation through the last ``order + 1`` computed steps, exact to degree ``order``.

    Args:
        order: degree of the polynomial, 0 (reuse) to 8; lower at early steps with fewer computed steps before them.
        unit: unit of time: ``"step"`` (step index) or ``"noise"`` (noise level).

    Raises:
        ForecastError: an option is out of range.

    >>> Newton(order=1).row((0, 2, 4), 6, Grid.uniform(10)).tolist()
    [0.0, -1.0, 2.0]
    """

    order: int = 2
    unit: TimeUnit = "step"

    def __post_init__(self) -> None:
        check_count("order", self.order, ForecastError, most=8)
        if self.unit not in ("step", "noise"):
            raise ForecastError(f"Unknown unit {self.unit!r}: expected 'step' or 'noise'.")

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        used = computed[-(self.order + 1) :]
        nodes, targets = (node_times(some, grid, self.unit) for some in (used, steps))
        weights = np.zeros((steps.size, computed.size))
        weights[:, -used.size :] = [newton_weights(nodes, target) for target in targets.tolist()]
        return weights
