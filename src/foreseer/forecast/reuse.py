"""Reuse of the last computed feature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid


@dataclass(frozen=True)
class Reuse(Forecaster):
    r"""Reuse of the last computed feature, $\hat F_i = F_s$ (FORA, arXiv 2407.01425).

    >>> Reuse().row((0, 1, 4), 6, Grid.uniform(10)).tolist()
    [0.0, 0.0, 1.0]
    """

    @property
    def ignores_levels(self) -> bool:
        """True."""
        return True

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        weights = np.zeros((steps.size, computed.size))
        weights[:, -1] = 1.0
        return weights
