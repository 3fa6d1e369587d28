"""Derivatives of a run's final error along changes of its plan's rows, by forward differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foreseer.calibration.gauss_newton import ErrorMoments
from foreseer.calibration.record import gram
from foreseer.calibration.row_directions import RowDirections
from foreseer.plan import Plan

LEAST_DIFFERENCE, MOST_DIFFERENCE = 1e-3, 0.03  # relative to the final sample
SHARE_OF_ERROR = 0.4


def relative_rounding(*dtypes: torch.dtype) -> float:
    """Return the least relative size of finite differences: the root of the outputs' rounding, or 0.001."""
    return max(LEAST_DIFFERENCE, *(torch.finfo(dtype).eps ** 0.5 for dtype in dtypes))


def difference_for(error: float, rounding: float) -> float:
    """Relative size of finite differences: below the error that they are to lessen, above rounding.

    Networks in 8 bits round their activations differently after any change, which small differences do not outweigh.

    >>> difference_for(0.02, 0.001), difference_for(0.5, 0.001), difference_for(1e-4, 0.001)
    (0.008, 0.03, 0.001)
    """
    return max(rounding, min(SHARE_OF_ERROR * error, MOST_DIFFERENCE))


def error_moments(
    directions: RowDirections,
    error: Float[Tensor, " D"],
    changed_error: Callable[[Plan, int], Float[Tensor, " D"]],
    size: float,
) -> ErrorMoments:
    """Moments of one run's error and of its derivatives along all directions.

    Args:
        directions: along which rows change.
        error: of the run under the unchanged plan.
        changed_error: the error under a plan that gives the same outputs up to a step, that step included.
        size: of a change.
    """
    columns = torch.empty(directions.size, error.numel(), device=error.device)
    for index, start in enumerate(directions.starts):
        delta = np.zeros(directions.size)
        delta[index] = size
        columns[index] = (changed_error(directions.change(delta), start) - error) / size
    products = gram([*columns, error], [*columns, error]) * error.numel()
    return ErrorMoments(products[:-1, :-1], products[:-1, -1], float(products[-1, -1]), 1)
