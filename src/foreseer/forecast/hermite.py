"""HiCache: TaylorSeer's differences on scaled Hermite polynomials."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from foreseer.checks import check_count, check_number
from foreseer.errors import ForecastError
from foreseer.forecast.base import Forecaster
from foreseer.forecast.taylor import recursive_differences
from foreseer.grid import Grid


@dataclass(frozen=True)
class ScaledHermite(Forecaster):
    r"""Hermite forecast from recursive differences (HiCache, arXiv 2508.16984).

    $\hat F = \sum_k \frac{\sigma^k}{k!} H_k(\sigma x)\, d_k$, x steps after the last computed step, with $d_k$ the
    differences of :class:`foreseer.forecast.TaylorSeer` and $H_k$ the physicists' Hermite polynomials, $H_0 = 1$,
    $H_1 = 2x$, $H_{k+1} = 2 x H_k - 2 k H_{k-1}$. The scale acts twice: on the argument and on each order. Linear
    trends are multiplied by $2 \sigma^2$: exact at $\sigma = \sqrt{1/2}$, damped below.

    Args:
        order: order of the highest difference, 0 (reuse) to 4; lower at early steps with fewer computed steps.
        scale: sigma, more than 0 and at most 1; 0.5 in the released code.
        first_enhance: differences start at computed step ``first_enhance - 1``; 3 in the FLUX setting.

    Raises:
        ForecastError: an option is out of range.

    >>> ScaledHermite(order=1, scale=0.5).row((0, 1, 2, 6), 8, Grid.uniform(10)).tolist()
    [0.0, 0.0, -0.25, 1.25]
    """

    order: int = 2
    scale: float = 0.5
    first_enhance: int = 3

    def __post_init__(self) -> None:
        check_count("order", self.order, ForecastError, most=4)
        check_number("scale", self.scale, ForecastError, most=1)
        if not self.scale:
            raise ForecastError("scale is 0; expected a number of more than 0 and at most 1.")
        check_count("first_enhance", self.first_enhance, ForecastError)

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        differences = np.array(recursive_differences(computed, self.order, self.first_enhance))
        orders = range(len(differences))
        factors = np.array([self.scale**k / math.factorial(k) for k in orders])
        x = (steps - computed[-1]).astype(np.float64)
        return np.polynomial.hermite.hermvander(self.scale * x, orders[-1]) * factors @ differences
