"""Damped Gauss-Newton steps on second moments; held-out data accept the steps and end the descent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from foreseer.checks import check_count, check_number
from foreseer.errors import ForeseerError

FACTOR = 10.0  # between two dampings that are tried
LEAST_DAMPING, MOST_DAMPING = 1e-12, 1e6
CONVERGED = 0.01  # relative decrease of the held-out square error below which another iteration does not pay


class GaussNewtonError(ForeseerError, ValueError):
    """Moments or options of different sizes, or outside of their range."""


@dataclass(frozen=True, eq=False)
class ErrorMoments:
    r"""Second moments of residuals r and their Jacobians J, summed over samples.

    Attributes:
        curvature: shape (N, N), $\sum J^T J$.
        gradient: shape (N,), $\sum J^T r$.
        square: $\sum r^T r$.
        samples: number of residuals in the sums.
    """

    curvature: np.ndarray
    gradient: np.ndarray
    square: float
    samples: int

    @classmethod
    def none(cls, size: int) -> ErrorMoments:
        """Sums over no sample, for ``size`` parameters."""
        return cls(np.zeros((size, size)), np.zeros(size), 0.0, 0)

    @classmethod
    def of(cls, columns: Float[np.ndarray, "N D"], residual: Float[np.ndarray, " D"]) -> ErrorMoments:
        """Moments of one residual; row n of ``columns`` is its derivative along parameter n."""
        return cls(columns @ columns.T, columns @ residual, float(residual @ residual), 1)

    def __add__(self, other: ErrorMoments) -> ErrorMoments:
        return ErrorMoments(
            self.curvature + other.curvature,
            self.gradient + other.gradient,
            self.square + other.square,
            self.samples + other.samples,
        )

    def relative(self) -> ErrorMoments:
        r"""Moments of $\sum \log |r|^2$ instead of $\sum |r|^2$: divided by the square error, if there is one."""
        weight = 1.0 / self.square if self.square > 0 else 1.0
        return ErrorMoments(self.curvature * weight, self.gradient * weight, self.square * weight, self.samples)

    def expected_square(self, step: np.ndarray) -> float:
        r"""$\sum |r + J \delta|^2$: the square error after ``step`` if residuals were linear."""
        return self.square + float(2 * self.gradient @ step + step @ self.curvature @ step)


def damped_step(moments: ErrorMoments, damping: float) -> Float[np.ndarray, " N"]:
    r"""Levenberg-Marquardt step, damped in proportion to the mean curvature.

    $\delta = -(\sum J^T J + \mu \bar\lambda I)^{-1} \sum J^T r$ with $\bar\lambda$ the mean eigenvalue of the sum.

    Args:
        moments: of N parameters.
        damping: $\mu$, at least 0; at 0 the least-norm solution.

    >>> moments = ErrorMoments.of(np.eye(2), np.array([3.0, -1.0]))
    >>> damped_step(moments, 0.0).tolist(), damped_step(moments, 1.0).tolist()
    ([-3.0, 1.0], [-1.5, 0.5])

    Source: D. W. Marquardt, An algorithm for least-squares estimation of nonlinear parameters, SIAM J. 11 (1963).
    """
    check_number("damping", damping, GaussNewtonError)
    values, vectors = np.linalg.eigh(moments.curvature)
    values = np.maximum(values, 0.0)
    shifted = values + damping * values.mean()
    floor = values.size * np.finfo(np.float64).eps * values[-1]
    inverse = np.where(shifted > floor, 1.0 / np.where(shifted > floor, shifted, 1.0), 0.0)
    return -(vectors * inverse) @ (vectors.T @ moments.gradient)


@dataclass(frozen=True)
class Descent:
    """Where a minimisation stands between two iterations.

    Attributes:
        error: square error on held-out data.
        damping: at which the next iteration begins.
        iterations: finished ones, that which was given up included.
        stopped: why no further iteration follows; empty while one does.
    """

    error: float
    damping: float = 1e-3
    iterations: int = 0
    stopped: str = ""


def iterate(
    descent: Descent, moments: ErrorMoments, held_out_error: Callable[[np.ndarray], float], tries: int = 5
) -> tuple[Descent, Float[np.ndarray, " N"] | None]:
    """One iteration: the damped step with the least error on held-out data, if any step lessens it.

    While steps do not lessen the error, damping grows; once one does, damping shrinks as long as that helps.

    Args:
        descent: where the minimisation stands.
        moments: at the present parameters, from the fitted samples.
        held_out_error: square error on held-out data after a step.
        tries: steps that are tried at most.

    Returns:
        Where it stands afterwards, and the step to take: ``None`` where none helps, and the descent has stopped.

    Raises:
        GaussNewtonError: a number of tries below 1, or a damping outside of its range.
    """
    check_count("tries", tries, GaussNewtonError, least=1)
    best_error, best_step, damping, direction = descent.error, None, descent.damping, 0.0
    best_damping = damping
    for _ in range(tries):
        step = damped_step(moments, damping)
        error = held_out_error(step)
        helps = math.isfinite(error) and error < best_error
        if helps:
            best_error, best_step, best_damping = error, step, damping
        if direction == 0.0:
            direction = 1 / FACTOR if helps else FACTOR
        elif helps != (direction < 1):
            break  # larger steps no longer help, or the first small enough one does
        damping *= direction
        if not LEAST_DAMPING <= damping <= MOST_DAMPING:
            break
    count = descent.iterations + 1
    if best_step is None:
        reason = f"no step lessens the held-out error ({tries} tried)"
        return replace(descent, iterations=count, damping=damping, stopped=reason), None
    converged = best_error > (1 - CONVERGED) * descent.error
    reason = f"the last step lessens the held-out square error by less than {CONVERGED:.0%}" if converged else ""
    return Descent(best_error, best_damping, count, reason), best_step
