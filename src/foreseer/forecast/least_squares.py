"""Ridge regression on second moments: of one feature, and of several branches together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

REGULAR = 1e-12  # a ridge of this share of the trace makes a matrix of second moments regular in float64


def solve_branches(
    among: Float64[np.ndarray, "M M"],
    targets: Float64[np.ndarray, "M B N"],
    mixing: Float64[np.ndarray, " B"],
    columns: Sequence[np.ndarray],
    *,
    ridge: float,
    own: float,
    priors: Sequence[np.ndarray] | None = None,
    sum_to_one: bool = False,
) -> list[np.ndarray]:
    """Rows of the branches to forecast, fitted together; see :class:`foreseer.forecast.KernelRows`.

    Unknowns are the branches' weights times their coefficients, $a_b = k_b w^b$: what features weigh in the guided
    forecast.

    Args:
        among: moments of the M computed features of all branches.
        targets: moments of these with the features of the B branches at the N steps to forecast.
        mixing: these branches' coefficients.
        columns: for each branch, which of the M features its rows weigh.
        ridge: relative to the mean square of the features.
        own: what each branch's own forecast counts beside the guided combination.
        priors: for each branch the rows, shape (N, K_b), that its rows shrink toward; ``None`` for 0.
        sum_to_one: constrain each branch's weights to sum to one.

    Returns:
        For each branch its rows, shape (N, K_b).
    """
    every = np.concatenate(columns)
    ends = np.cumsum([one.size for one in columns])
    places = [slice(end - one.size, end) for one, end in zip(columns, ends, strict=True)]
    shared = among[np.ix_(every, every)]
    system = shared.copy()
    wanted = np.einsum("mbn,b->mn", targets, mixing)[every]
    strength = ridge * float(shared.trace()) / every.size
    for b, (place, weight) in enumerate(zip(places, mixing, strict=True)):
        system[place, place] += own * shared[place, place]
        wanted[place] += own * weight * targets[columns[b], b]
        if priors is not None:
            wanted[place] += strength * weight * priors[b].T
    parts = np.zeros((every.size, len(columns)))
    for b, place in enumerate(places):
        parts[place, b] = 1.0
    found = ridge_solve(system, wanted, strength, parts if sum_to_one else None, mixing)
    return [found[place].T / weight for place, weight in zip(places, mixing, strict=True)]


def ridge_solve(
    system: np.ndarray,
    targets: np.ndarray,
    strength: float,
    parts: np.ndarray | None = None,
    totals: np.ndarray | None = None,
) -> np.ndarray:
    """Solve (system + strength I) w = target, optionally with given sums of w; least norm where it is singular.

    Args:
        system: shape (K, K), positive semi-definite.
        targets: shape (K,), or (K, N) for N of them.
        strength: at least 0.
        parts: shape (K, C): w's products with its columns are to be the totals; ``None`` for no such constraint.
        totals: shape (C,).
    """
    shifted = system.copy()
    shifted.flat[:: system.shape[0] + 1] += strength
    free = _solve(shifted, targets, strength)
    if parts is None or totals is None:
        return free
    along = _solve(shifted, parts, strength)
    missing = (totals - (parts.T @ free).T).T
    return free + along @ np.linalg.solve(parts.T @ along, missing)


def _solve(matrix: np.ndarray, target: np.ndarray, strength: float) -> np.ndarray:
    try:
        if strength < REGULAR * float(matrix.trace()):
            np.linalg.cholesky(matrix)  # fails where the matrix is singular to rounding
        return np.linalg.solve(matrix, target)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(matrix, target, rcond=None)[0]
