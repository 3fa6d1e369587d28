"""Ridge regression on second moments, for one feature or jointly for several branches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

REGULAR = 1e-12  # a ridge above this share of the trace makes a matrix of second moments regular in float64


def solve_branches(
    among: Float64[np.ndarray, "M M"],
    targets: Float64[np.ndarray, "M B N"],
    mixing: Float64[np.ndarray, " B"],
    columns: Sequence[np.ndarray],
    *,
    ridge: float,
    branch_weight: float,
    priors: Sequence[np.ndarray] | None = None,
    sum_to_one: bool = False,
) -> list[np.ndarray]:
    """Fit the rows of several branches jointly; ``KernelRows`` states the objective.

    The unknowns are $a_b = k_b w^b$, the weights of features in the guided forecast.

    Args:
        among: moments of the M computed features of all branches, shape (M, M).
        targets: moments of these with the features of the B branches at the N steps to forecast, shape (M, B, N).
        mixing: the branches' coefficients k, shape (B,).
        columns: for each branch, the indices of the K_b features that its rows weigh.
        ridge: relative to the mean square of the features.
        branch_weight: weight of each branch's error relative to the guided combination's.
        priors: for each branch the rows to shrink toward, shape (N, K_b); ``None`` for 0.
        sum_to_one: constrain each branch's weights to sum to one.

    Returns:
        For each branch its rows, shape (N, K_b).
    """
    indices = np.concatenate(columns)
    ends = np.cumsum([column.size for column in columns])
    places = [slice(end - column.size, end) for column, end in zip(columns, ends, strict=True)]
    shared = among[np.ix_(indices, indices)]
    system = shared.copy()
    wanted = np.einsum("mbn,b->mn", targets, mixing)[indices]
    strength = ridge * float(shared.trace()) / indices.size
    for b, (place, weight) in enumerate(zip(places, mixing, strict=True)):
        system[place, place] += branch_weight * shared[place, place]
        wanted[place] += branch_weight * weight * targets[columns[b], b]
        if priors is not None:
            wanted[place] += strength * weight * priors[b].T
    parts = np.zeros((indices.size, len(columns)))
    for b, place in enumerate(places):
        parts[place, b] = 1.0
    solution = ridge_solve(system, wanted, strength, parts if sum_to_one else None, mixing)
    return [solution[place].T / weight for place, weight in zip(places, mixing, strict=True)]


def ridge_solve(
    system: np.ndarray,
    targets: np.ndarray,
    strength: float,
    parts: np.ndarray | None = None,
    totals: np.ndarray | None = None,
) -> np.ndarray:
    """Solve (system + strength I) w = target, optionally subject to parts^T w = totals.

    A singular system gives the solution of least norm.

    Args:
        system: shape (K, K), positive semi-definite.
        targets: shape (K,), or (K, N) for N right-hand sides.
        strength: at least 0.
        parts: constraint matrix, shape (K, C); ``None`` for no constraint.
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
            np.linalg.cholesky(matrix)  # raises if the matrix is singular to rounding
        return np.linalg.solve(matrix, target)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(matrix, target, rcond=None)[0]
