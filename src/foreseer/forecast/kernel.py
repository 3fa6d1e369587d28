"""Kernel rows: the best linear unbiased forecast that second moments allow."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from foreseer.checks import check_kind, check_number
from foreseer.errors import ForecastError
from foreseer.forecast.base import NONE, Forecaster, as_steps, segments_of
from foreseer.forecast.joint import JointRows, KernelMoments
from foreseer.forecast.least_squares import ridge_solve, solve_branches
from foreseer.grid import Grid
from foreseer.kernel import Kernel

OWN = 0.1  # measured: see docs/learning.md


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
        steer: for rows of branches: the share, 0 to 1, of what the sample is expected to have missed so far that the
            next skipped steps make good, as far as the computed features tell.

    Branches may compute at steps of their own. Where none computes, each one's row weighs its own features, as above;
    where some compute, the rows of the others weigh in addition what the branches called before them have computed, at
    that very step too.

    Raises:
        ForecastError: the ridge, ``own`` or ``steer`` is negative or not finite.
        KernelError: asked for a row, the kernel cannot cover the grid.
    """

    kernel: Kernel = field(repr=False)
    ridge: float = 1e-6
    prior: Forecaster | None = None
    sum_to_one: bool = False
    own: float = OWN
    steer: float = 0.0

    def __post_init__(self) -> None:
        check_kind("kernel", self.kernel, Kernel, ForecastError)
        check_number("ridge", self.ridge, ForecastError)
        check_number("own", self.own, ForecastError)
        check_number("steer", self.steer, ForecastError)
        if self.prior is not None:
            check_kind("prior", self.prior, Forecaster, ForecastError)

    def __repr__(self) -> str:
        words = f"{self.kernel!r}, ridge={self.ridge!r}, prior={self.prior!r}, sum_to_one={self.sum_to_one!r}"
        if self.kernel.branches is not None:
            words += f", own={self.own!r}, steer={self.steer!r}"
        return f"KernelRows({words})"

    @property
    def learned_on(self) -> Mapping[str, str]:
        """The kernel's provenance."""
        return self.kernel.provenance

    def branch_rows(
        self,
        computed_steps: Sequence[int] | np.ndarray,
        grid: Grid,
        branch_steps: Mapping[str, Sequence[int]] = NONE,
    ) -> Mapping[str, Float64[np.ndarray, "T T"]]:
        """Rows of each branch, or of each part of the network, that the kernel knows."""
        if self.kernel.branches is None:
            shared = super().branch_rows(computed_steps, grid, branch_steps)
            return {**shared, **self._part_rows(computed_steps, grid)}
        joint = self._joint(computed_steps, grid, branch_steps)
        return dict(zip(self.kernel.branches.names, joint.rows, strict=True))

    def cross_rows(
        self,
        computed_steps: Sequence[int] | np.ndarray,
        grid: Grid,
        branch_steps: Mapping[str, Sequence[int]] = NONE,
    ) -> Mapping[tuple[str, str], Float64[np.ndarray, "T T"]]:
        """At steps where some branches compute: rows over what those called before gave, in their pasts and now."""
        if self.kernel.branches is None:
            return {}
        names = self.kernel.branches.names
        joint = self._joint(computed_steps, grid, branch_steps)
        return {(names[branch], names[other]): rows for (branch, other), rows in joint.cross.items()}

    def _joint(
        self, computed_steps: Sequence[int] | np.ndarray, grid: Grid, branch_steps: Mapping[str, Sequence[int]]
    ) -> JointRows:
        kernel = self.kernel.on(grid)
        branches = kernel.branches
        assert branches is not None
        unknown = [name for name in branch_steps if name not in branches.names]
        if unknown:
            raise ForecastError(f"The kernel knows the branches {branches.names}, not {unknown[0]!r}.")
        computed = as_steps(computed_steps).astype(np.int64)
        steps = [as_steps(branch_steps.get(name, computed)).astype(np.int64) for name in branches.names]
        moments = KernelMoments(branches, kernel.final_weights)
        options = {"ridge": self.ridge, "own": self.own, "steer": self.steer}
        joint = JointRows(moments, branches.mixing, steps, len(grid), **options)
        prior = None if self.prior is None else lambda known, wanted: self._prior(known, wanted, grid)
        for step, end in itertools.pairwise((*computed.tolist(), len(grid))):
            joint.fit(step, end, prior, sum_to_one=self.sum_to_one)
        return joint

    def _prior(self, known: np.ndarray, wanted: np.ndarray, grid: Grid) -> np.ndarray:
        assert self.prior is not None
        return self.prior.segment(known, wanted, grid)

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
        count = len(branches.names)
        known = count * computed.size
        return np.stack(
            solve_branches(
                among[:, :, :, computed].reshape(known, known),
                among[:, :, :, steps].reshape(known, count, steps.size),
                branches.mixing,
                np.split(np.arange(known), count),
                ridge=self.ridge,
                own=self.own,
                priors=None if self.prior is None else [self.prior.segment(computed, steps, grid)] * count,
                sum_to_one=self.sum_to_one,
            )
        )

    def _weights(self, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        return self._solved(self.kernel.on(grid).pooled, computed, steps, grid)

    def _solved(self, gram: np.ndarray, computed: np.ndarray, steps: np.ndarray, grid: Grid) -> np.ndarray:
        among = gram[computed]
        system, targets = among[:, computed], among[:, steps]
        strength = self.ridge * float(system.trace()) / computed.size
        if self.prior is not None:
            targets = targets + strength * self.prior.segment(computed, steps, grid).T
        parts = np.ones((computed.size, 1)) if self.sum_to_one else None
        return ridge_solve(system, targets, strength, parts, np.ones(1)).T
