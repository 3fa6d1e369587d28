"""Cross-validation over prompts: expected errors of rows on prompts that they were not fitted to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.forecast.base import NONE, Forecaster
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.kernel import Kernel
from foreseer.kernel.expected import final_errors

FOLDS = 8
MOST_RIDGE = 0.1
RIDGES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class ExpectedError:
    """Expected relative error of the final sample.

    Attributes:
        mean: over held-out prompts; root mean square where it is predicted from second moments (:func:`summarise`),
            geometric mean where runs were measured (:func:`measured_error`).
        spread: standard error of that mean, from the variation over prompts; ``nan`` for a single prompt.
        worst: largest error over prompts.
        ridge: ridge of the rows; ``nan`` for rows of a formula.
    """

    mean: float
    spread: float
    worst: float
    ridge: float

    def __str__(self) -> str:
        return f"{plus_minus(self.mean, self.spread)} (worst prompt {self.worst:.4f})"


def plus_minus(mean: float, spread: float) -> str:
    """Format a mean and its standard error, if it has one.

    >>> plus_minus(0.02, 0.001), plus_minus(0.02, math.nan)
    ('0.0200 +- 0.0010', '0.0200 (one prompt)')
    """
    return f"{mean:.4f} (one prompt)" if math.isnan(spread) else f"{mean:.4f} +- {spread:.4f}"


def held_out_errors(
    kernel: Kernel,
    computed_steps: Sequence[int],
    ridge: float,
    folds: int = FOLDS,
    *,
    branch_steps: Mapping[str, Sequence[int]] = NONE,
    feedback_gain: float = 0.0,
) -> Float64[np.ndarray, " P"]:
    """Return the error of each prompt's final sample with rows fitted on the prompts of the other folds.

    Errors are relative to the final sample's size if the kernel has it. With a single prompt, rows are fitted on that
    prompt.

    Args:
        kernel: second moments.
        computed_steps: the steps at which any branch computes.
        ridge: ridge of the rows.
        folds: maximum number of folds.
        branch_steps: the computed steps of each branch that skips some of ``computed_steps``.
        feedback_gain: error feedback gain of the rows.
    """
    parts = np.array_split(np.arange(kernel.prompts), min(folds, kernel.prompts))
    errors = np.zeros(kernel.prompts)
    for part in parts:
        others = np.setdiff1d(np.arange(kernel.prompts), part)
        fitted = kernel.subset(others.tolist()) if others.size else kernel
        forecaster = KernelRows(fitted, ridge=ridge, feedback_gain=feedback_gain)
        rows = forecaster.rows(computed_steps, kernel.grid)
        branch_rows = forecaster.branch_rows(computed_steps, kernel.grid, branch_steps)
        cross_rows = forecaster.cross_rows(computed_steps, kernel.grid, branch_steps)
        errors[part] = final_errors(kernel.subset(part.tolist()), rows, branch_rows, cross_rows)
    return errors / _scale(kernel)


def expected_error(kernel: Kernel, computed_steps: Sequence[int], ridge: float, **options: Any) -> ExpectedError:
    """Return the cross-validated expected error of kernel rows; ``options`` as in :func:`held_out_errors`."""
    return summarise(held_out_errors(kernel, computed_steps, ridge, **options), ridge)


def formula_error(kernel: Kernel, computed_steps: Sequence[int], forecaster: Forecaster) -> ExpectedError:
    """Return the expected error of a fixed formula's rows; nothing is fitted, so no prompts are held out."""
    errors = final_errors(kernel, forecaster.rows(computed_steps, kernel.grid))
    return summarise(errors / _scale(kernel), math.nan)


def _scale(kernel: Kernel) -> Float64[np.ndarray, " P"]:
    return np.sqrt(kernel.final_squares) if kernel.final_squares is not None else np.ones(kernel.prompts)


def typical_error(errors: np.ndarray) -> float:
    r"""Geometric mean of errors per prompt, $\exp(\frac{1}{P} \sum_p \log e_p)$: what a mean PSNR measures.

    A fit is judged by it, so that one prompt whose run leaves its reference for good does not decide.

    >>> round(typical_error(np.array([0.01, 0.01, 1.0])), 3)
    0.046
    """
    return float(np.exp(np.mean(np.log(np.maximum(errors, np.finfo(np.float64).tiny)))))


def summarise(errors: Float64[np.ndarray, " P"], ridge: float = math.nan) -> ExpectedError:
    """Root mean square of relative errors per prompt, its standard error, and the largest."""
    mean = math.sqrt(float(np.mean(errors**2)))
    # The mean of squares has standard error s / sqrt(P), its square root half of that divided by the root.
    deviation = float(np.std(errors**2, ddof=1)) if errors.size > 1 else math.nan
    spread = deviation / math.sqrt(errors.size) / (2 * mean) if mean > 0 else 0.0
    return ExpectedError(mean, spread, float(errors.max()), ridge)


def measured_error(errors: Float64[np.ndarray, " P"]) -> ExpectedError:
    """Geometric mean of errors measured in runs of held-out prompts, its standard error, and the largest.

    Some runs leave their reference for good; with a handful of prompts, a root mean square says little more than
    whether one of these is among them.

    Args:
        errors: one for each held-out prompt.

    >>> str(measured_error(np.array([0.01, 0.02, 0.04])))
    '0.0200 +- 0.0080 (worst prompt 0.0400)'
    """
    mean = typical_error(errors)
    logarithms = np.log(np.maximum(errors, np.finfo(np.float64).tiny))
    spread = mean * float(np.std(logarithms, ddof=1)) / math.sqrt(errors.size) if errors.size > 1 else math.nan
    return ExpectedError(mean, spread, float(errors.max()), math.nan)


def clearly_less(after: Float64[np.ndarray, " P"], before: Float64[np.ndarray, " P"]) -> bool:
    r"""Whether the same prompts' errors fell by more than chance.

    $\bar d > s_d / \sqrt P$ with d = log(before / after).

    What was tried until a handful of held-out prompts had less error may be worse on others; one standard error of the
    mean is asked for. A single prompt has none, and is believed.

    >>> before = np.array([0.2, 0.4])
    >>> clearly_less(np.array([0.1, 0.2]), before), clearly_less(np.array([0.1, 0.6]), before)
    (True, False)
    """
    if not (np.isfinite(after).all() and np.isfinite(before).all()):
        return bool(np.isfinite(after).all())
    least = np.finfo(np.float64).tiny
    fall = np.log(np.maximum(before, least)) - np.log(np.maximum(after, least))
    chance = float(np.std(fall, ddof=1)) / math.sqrt(fall.size) if fall.size > 1 else 0.0
    return float(np.mean(fall)) > chance


def best_ridge(
    kernel: Kernel, computed_steps: Sequence[int], ridges: Sequence[float] = RIDGES, **options: Any
) -> ExpectedError:
    r"""Return the least cross-validated error over ``ridges``, with its ridge, but at least $c e^2$.

    In a run with forecasts the features at computed steps differ from recorded ones, which cross-validation does not
    see. The ridge counts that as noise: e is the expected error, c the kernel's drift.
    """
    errors = (expected_error(kernel, computed_steps, ridge, **options) for ridge in ridges)
    best = min(errors, key=lambda error: error.mean)
    ridge = min(kernel.drift * best.mean**2, MOST_RIDGE) if kernel.has_final_error else 0.0
    return best if ridge <= best.ridge else expected_error(kernel, computed_steps, ridge, **options)
