"""Kernel rows: the best linear unbiased forecast that second moments allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from foreseer.checks import check_kind, check_number
from foreseer.errors import ForecastError
from foreseer.forecast.base import Forecaster, segments_of
from foreseer.grid import Grid
from foreseer.kernel import Kernel

OWN = 0.1  # measured: see docs/learning.md
REGULAR = 1e-12  # a ridge of this share of the trace makes a matrix of second moments regular in float64


@dataclass(frozen=True, eq=False)
class KernelRows(Forecaster):
    r"""$w = (G_{SS} + \mu I)^{-1} (G_{Si} + \mu w_0)$, $\mu = \lambda \operatorname{tr} G_{SS} / |S|$.

    Ridge regression of the feature at step i on the computed ones (kriging), shrinking toward a prior row $w_0$ (zero
    unless a forecaster is given). On a grid other than the kernel's, the kernel is interpolated along the noise level.

    Where the kernel knows the branches of guidance, $g_i = \sum_b k_b F^b_i$, each has rows $w^b$ of its own, fitted
    together: they minimise $E |g_i - \sum_b k_b \hat F^b_i|^2 + \rho \sum_b k_b^2 E |F^b_i - \hat F^b_i|^2$.

    Where the kernel knows parts of the network, each has the rows of its own moments.

    Args:
        kernel: second moments from calibration.
        ridge: lambda, relative to the mean square of the features; at least 0.
        prior: whose row to shrink toward.
        sum_to_one: constrain the weights to sum to one, so that constants are forecast exactly.
        own: rho, what each branch's own forecast counts beside the guided combination; at least 0. With 0 each step's
            guided forecast is best, but errors add up more in the final sample, and rows serve no other guidance.

    Raises:
        ForecastError: the ridge or ``own`` is negative or not finite.
        KernelError: asked for a row, the kernel cannot cover the grid.
    """

    kernel: Kernel = field(repr=False)
    ridge: float = 1e-6
    prior: Forecaster | None = None
    sum_to_one: bool = False
    own: float = OWN

    def __post_init__(self) -> None:
        check_kind("kernel", self.kernel, Kernel, ForecastError)
        check_number("ridge", self.ridge, ForecastError)
        check_number("own", self.own, ForecastError)
        if self.prior is not None:
            check_kind("prior", self.prior, Forecaster, ForecastError)

    def __repr__(self) -> str:
        words = f"{self.kernel!r}, ridge={self.ridge!r}, prior={self.prior!r}, sum_to_one={self.sum_to_one!r}"
        if self.kernel.branches is not None:
            words += f", own={self.own!r}"
        return f"KernelRows({words})"

    def branch_rows(
        self, computed_steps: Sequence[int] | np.ndarray, grid: Grid
    ) -> Mapping[str, Float64[np.ndarray, "T T"]]:
        """Rows of each branch, or of each part of the network, that the kernel knows."""
        if self.kernel.branches is None:
            return self._part_rows(computed_steps, grid)
        names = self.kernel.branches.names
        rows = np.tile(np.eye(len(grid)), (len(names), 1, 1))
        for before, steps in segments_of(computed_steps, len(grid)):
            rows[:, steps] = 0.0
            rows[np.ix_(np.arange(len(names)), steps, before)] = self.branch_segment(before, steps, grid)
        return dict(zip(names, rows, strict=True))

    def _part_rows(
        self, computed_steps: Sequence[int] | np.ndarray, grid: Grid
    ) -> Mapping[str, Float64[np.ndarray, "T T"]]:
        if self.kernel.parts is None:
            return {}
        parts = self.kernel.on(grid).parts
        assert parts is not None
        rows = np.tile(np.eye(len(grid)), (len(parts.names), 1, 1))
        for before, steps in segments_of(computed_steps, len(grid)):
            rows[:, steps] = 0.0
            for of_part, gram in zip(rows, parts.grams, strict=True):
                of_part[np.ix_(steps, before)] = self._solved(gram, before, steps, grid)
        return dict(zip(parts.names, rows, strict=True))

    def branch_segment(
        self, computed: Int64[np.ndarray, " K"], steps: Int64[np.ndarray, " N"], grid: Grid
    ) -> Float64[np.ndarray, "B N K"]:
        """Rows of several steps, all from the same computed steps, for each branch that the kernel knows."""
        branches = self.kernel.on(grid).branches
        assert branches is not None
        apart = (len(branches.names), branches.steps)
        among = branches.pooled.reshape(apart + apart)[:, computed]
        return solve_branches(
            among[:, :, :, computed],
            among[:, :, :, steps],
            branches.mixing,
            ridge=self.ridge,
            own=self.own,
            prior=None if self.prior is None else self.prior.segment(computed, steps, grid),
            sum_to_one=self.sum_to_one,
        )

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        return self._solved(self.kernel.on(grid).pooled, computed, steps, grid)

    def _solved(self, gram: np.ndarray, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        among = gram[computed]
        system, targets = among[:, computed], among[:, steps]
        strength = self.ridge * float(system.trace()) / computed.size
        if self.prior is not None:
            targets = targets + strength * self.prior.segment(computed, steps, grid).T
        return ridge_solve(system, targets, strength, np.ones(1) if self.sum_to_one else None).T


def solve_branches(
    among: Float64[np.ndarray, "B K B K"],
    targets: Float64[np.ndarray, "B K B N"],
    mixing: Float64[np.ndarray, " B"],
    *,
    ridge: float,
    own: float,
    prior: Float64[np.ndarray, "N K"] | None = None,
    sum_to_one: bool = False,
) -> Float64[np.ndarray, "B N K"]:
    """Rows of every branch, fitted together; see :class:`KernelRows`.

    Unknowns are the branches' weights times their coefficients, $a_b = k_b w^b$: what features weigh in the guided
    forecast.

    Args:
        among: moments of the branches' computed features.
        targets: moments of these with the branches' features at the N steps to forecast.
        mixing: k.
        ridge: relative to the mean square of the features.
        own: what each branch's own forecast counts beside the guided combination.
        prior: the row that every branch's rows shrink toward; ``None`` for 0.
        sum_to_one: constrain each branch's weights to sum to one.
    """
    count, known = among.shape[:2]
    system = among.copy()
    wanted = (mixing @ targets.reshape(count * known, count, -1)).reshape(count, known, -1)
    for b, weight in enumerate(mixing):
        system[b, :, b] += own * among[b, :, b]
        wanted[b] += own * weight * targets[b, :, b]
    strength = ridge * float(among.reshape(count * known, -1).trace()) / (count * known)
    if prior is not None:
        wanted += strength * np.multiply.outer(mixing, prior.T)
    flat = system.reshape(count * known, count * known)
    totals = mixing if sum_to_one else None
    found = ridge_solve(flat, wanted.reshape(count * known, -1), strength, totals)
    return found.reshape(count, known, -1).transpose(0, 2, 1) / mixing[:, None, None]


def ridge_solve(
    system: np.ndarray, targets: np.ndarray, strength: float, totals: np.ndarray | None = None
) -> np.ndarray:
    """Solve (system + strength I) w = target, optionally with given sums of w; least norm where it is singular.

    Args:
        system: shape (K, K), positive semi-definite.
        targets: shape (K,), or (K, N) for N of them.
        strength: at least 0.
        totals: shape (C,): w falls into C parts of equal length, which sum to these; ``None`` for no such constraint.
    """
    shifted = system.copy()
    shifted.flat[:: system.shape[0] + 1] += strength
    free = _solve(shifted, targets, strength)
    if totals is None:
        return free
    parts = np.kron(np.eye(totals.size), np.ones((system.shape[0] // totals.size, 1)))
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
