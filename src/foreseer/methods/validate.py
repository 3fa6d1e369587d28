"""What a kernel's rows do on prompts that they were not fitted to: cross-validation over prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.forecast.base import NONE, Forecaster
from foreseer.forecast.kernel import KernelRows
from foreseer.kernel import Kernel
from foreseer.kernel.expected import final_errors

FOLDS = 8
RIDGES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class ExpectedError:
    """Expected relative error of the final sample.

    Attributes:
        mean: root mean square over held-out prompts.
        spread: standard error of that mean, from the spread over prompts; ``nan`` for a single prompt.
        worst: the largest over prompts.
        ridge: the ridge of the rows; ``nan`` for a formula's, which have none.
    """

    mean: float
    spread: float
    worst: float
    ridge: float

    def __str__(self) -> str:
        return f"{plus_minus(self.mean, self.spread)} (worst prompt {self.worst:.4f})"


def plus_minus(mean: float, spread: float) -> str:
    """A mean and its standard error, which a single prompt does not tell.

    >>> plus_minus(0.02, 0.001), plus_minus(0.02, math.nan)
    ('0.0200 +- 0.0010', '0.0200 of one prompt')
    """
    return f"{mean:.4f} of one prompt" if math.isnan(spread) else f"{mean:.4f} +- {spread:.4f}"


def held_out_errors(
    kernel: Kernel,
    computed_steps: Sequence[int],
    ridge: float,
    folds: int = FOLDS,
    *,
    branch_steps: Mapping[str, Sequence[int]] = NONE,
    steer: float = 0.0,
) -> Float64[np.ndarray, " P"]:
    """Error of the final sample for each prompt, its rows fitted on the prompts of the other folds.

    Relative to the size of the final sample where the kernel knows it. With one prompt there is no other to fit on, and
    the error is that of the fit itself.

    Args:
        kernel: the moments.
        computed_steps: the steps at which any branch computes.
        ridge: of the rows.
        folds: at most so many.
        branch_steps: the computed steps of branches that do not compute at all of them.
        steer: of the rows.
    """
    parts = np.array_split(np.arange(kernel.prompts), min(folds, kernel.prompts))
    errors = np.zeros(kernel.prompts)
    for part in parts:
        others = np.setdiff1d(np.arange(kernel.prompts), part)
        fitted = kernel.subset(others.tolist()) if others.size else kernel
        forecaster = KernelRows(fitted, ridge=ridge, steer=steer)
        rows = forecaster.rows(computed_steps, kernel.grid)
        own = forecaster.branch_rows(computed_steps, kernel.grid, branch_steps)
        cross = forecaster.cross_rows(computed_steps, kernel.grid, branch_steps)
        errors[part] = final_errors(kernel.subset(part.tolist()), rows, own, cross)
    return errors / _scale(kernel)


def expected_error(kernel: Kernel, computed_steps: Sequence[int], ridge: float, **options: Any) -> ExpectedError:
    """The expected error of kernel rows on ``computed_steps``, cross-validated; options of :func:`held_out_errors`."""
    return summarise(held_out_errors(kernel, computed_steps, ridge, **options), ridge)


def formula_error(kernel: Kernel, computed_steps: Sequence[int], forecaster: Forecaster) -> ExpectedError:
    """The expected error of a fixed formula's rows on ``computed_steps``: nothing is fitted, so nothing held out."""
    errors = final_errors(kernel, forecaster.rows(computed_steps, kernel.grid))
    return summarise(errors / _scale(kernel), math.nan)


def _scale(kernel: Kernel) -> Float64[np.ndarray, " P"]:
    return np.sqrt(kernel.final_squares) if kernel.final_squares is not None else np.ones(kernel.prompts)


def summarise(errors: Float64[np.ndarray, " P"], ridge: float = math.nan) -> ExpectedError:
    """Root mean square of relative errors per prompt, its standard error, and the largest."""
    mean = math.sqrt(float(np.mean(errors**2)))
    # The mean of squares has standard error s / sqrt(P); half of it over the root is that of the root.
    deviation = float(np.std(errors**2, ddof=1)) if errors.size > 1 else math.nan
    spread = deviation / math.sqrt(errors.size) / (2 * mean) if mean > 0 else 0.0
    return ExpectedError(mean, spread, float(errors.max()), ridge)


def best_ridge(
    kernel: Kernel, computed_steps: Sequence[int], ridges: Sequence[float] = RIDGES, **options: Any
) -> ExpectedError:
    """The ridge with the least cross-validated error on ``computed_steps``, and that error."""
    found = (expected_error(kernel, computed_steps, ridge, **options) for ridge in ridges)
    return min(found, key=lambda one: one.mean)
