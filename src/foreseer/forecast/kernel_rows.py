"""Kernel rows: the best linear forecast for given second moments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from foreseer.checks import check_flags, check_kind, check_number
from foreseer.errors import ForecastError
from foreseer.forecast.base import NONE, Forecaster, as_steps, segments_of
from foreseer.forecast.joint_rows import JointRows, KernelMoments
from foreseer.forecast.least_squares import ridge_solve, solve_branches
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.kernel.expected import final_errors

BRANCH_WEIGHT = 0.1  # measured: 3.2 dB better than 0 at 9 of 50 steps, guidance 3


@dataclass(frozen=True, eq=False)
class KernelRows(Forecaster):
    r"""Rows $w = (G_{SS} + \mu I)^{-1} (G_{Si} + \mu w_0)$: ridge regression on second moments.

    The feature at step i is regressed on those at computed steps S (kriging) with ridge
    $\mu = \lambda \operatorname{tr} G_{SS} / |S|$, shrunk toward a prior row $w_0$ (zero unless a forecaster is given).
    On another grid, the kernel is interpolated along the noise level.

    With branches of guidance, $g_i = \sum_b k_b F^b_i$, each branch has separate rows $w^b$, fitted jointly to minimise
    $E |g_i - \sum_b k_b \hat F^b_i|^2 + \rho \sum_b k_b^2 E |F^b_i - \hat F^b_i|^2$. Branches may have separate
    computed steps: at a step where only some compute, the rows of the others also weigh the features of branches called
    earlier, including those of the same step. Each part of the network, or further tensor of a feature, has rows from
    its own moments.

    Args:
        kernel: second moments from calibration.
        ridge: lambda, relative to the mean square of the features; at least 0.
        prior: forecaster whose row to shrink toward.
        sum_to_one: constrain the weights to sum to one, so that constants are forecast exactly.
        branch_weight: rho, weight of each branch's error relative to the guided combination's, at least 0. With 0 the
            guided forecast of each step is best, but errors accumulate more and rows serve one guidance scale only.
        feedback_gain: error feedback gain, 0 to 1: share of the sample's predicted error so far that the next skipped
            steps correct, for features and for further tensors of the output. Parts of the network have none.

    Raises:
        ForecastError: ``ridge``, ``branch_weight`` or ``feedback_gain`` is negative or not finite.
        KernelError: in :meth:`row`, the grid lies outside the kernel's noise levels.
    """

    kernel: Kernel = field(repr=False)
    ridge: float = 1e-6
    prior: Forecaster | None = None
    sum_to_one: bool = False
    branch_weight: float = BRANCH_WEIGHT
    feedback_gain: float = 0.0

    def __post_init__(self) -> None:
        check_kind("kernel", self.kernel, Kernel, ForecastError)
        check_number("ridge", self.ridge, ForecastError)
        check_flags(ForecastError, sum_to_one=self.sum_to_one)
        check_number("branch_weight", self.branch_weight, ForecastError)
        check_number("feedback_gain", self.feedback_gain, ForecastError)
        if self.prior is not None:
            check_kind("prior", self.prior, Forecaster, ForecastError)

    def __repr__(self) -> str:
        arguments = f"{self.kernel!r}, ridge={self.ridge!r}, prior={self.prior!r}, sum_to_one={self.sum_to_one!r}"
        if self.kernel.branches is not None:
            arguments += f", branch_weight={self.branch_weight!r}"
        if self.feedback_gain:
            arguments += f", feedback_gain={self.feedback_gain!r}"
        return f"KernelRows({arguments})"

    @property
    def joins_visits(self) -> bool:
        """Whether the kernel was recorded with a scheduler that visits levels more than once."""
        return self.kernel.grid.repeats

    @property
    def depends_on_next_step(self) -> bool:
        """True with error feedback, which corrects the sample by the next computed step."""
        return bool(self.feedback_gain) and not self.kernel.is_balanced

    @property
    def learned_on(self) -> Mapping[str, str]:
        """Provenance of the kernel."""
        return self.kernel.provenance

    def expected_error(
        self, grid: Grid, rows: np.ndarray, branch_rows: Mapping[str, np.ndarray], cross_rows: Mapping[Any, np.ndarray]
    ) -> float | None:
        """Return the root mean square over the kernel's prompts; ``None`` if the kernel has no final error."""
        if self.kernel.parts is not None or not self.kernel.has_final_error:
            return None
        kernel = self.kernel.on(grid)
        assert kernel.final_squares is not None
        squares = final_errors(kernel, rows, branch_rows, cross_rows) ** 2
        return math.sqrt(float(np.mean(squares) / np.mean(kernel.final_squares)))

    def rows(self, computed_steps: Sequence[int] | np.ndarray, grid: Grid) -> Float64[np.ndarray, "T T"]:
        """Return the rows of a whole run; with error feedback they depend on the segments before."""
        if not self.depends_on_next_step:
            return super().rows(computed_steps, grid)
        return self._with_feedback(self.kernel.on(grid).pooled, computed_steps, grid)

    def part_rows(
        self, computed_steps: Sequence[int] | np.ndarray, grid: Grid
    ) -> Mapping[str, Float64[np.ndarray, "T T"]]:
        """Return the rows of each part of the network, or of each further tensor of the feature."""
        if self.kernel.parts is None:
            return {}
        kernel = self.kernel.on(grid)
        assert kernel.parts is not None
        # The further tensors of an output are sampled with the first: an error has the same effect on their samples.
        feeds_back = self.feedback_gain > 0 and kernel.parts.are_tensors and kernel.output_squares is None
        rows = self._with_feedback if feeds_back else self._without_feedback
        return {
            name: rows(gram, computed_steps, grid)
            for name, gram in zip(kernel.parts.names, kernel.parts.grams, strict=True)
        }

    def _with_feedback(
        self, gram: Float64[np.ndarray, "T T"], computed_steps: Sequence[int] | np.ndarray, grid: Grid
    ) -> Float64[np.ndarray, "T T"]:
        moments = KernelMoments(gram, np.eye(len(grid)), self.kernel.on(grid).final_weights)
        steps = as_steps(computed_steps).astype(np.int64)
        return self._fitted(moments, np.ones(1), [steps], steps, grid, branch_weight=0.0).rows[0]

    def _without_feedback(
        self, gram: Float64[np.ndarray, "T T"], computed_steps: Sequence[int] | np.ndarray, grid: Grid
    ) -> Float64[np.ndarray, "T T"]:
        rows = np.eye(len(grid))
        for before, steps in segments_of(computed_steps, len(grid)):
            rows[steps] = 0.0
            rows[np.ix_(steps, before)] = self._solved(gram, before, steps, grid)
        return rows

    def branch_rows(
        self,
        computed_steps: Sequence[int] | np.ndarray,
        grid: Grid,
        branch_steps: Mapping[str, Sequence[int]] = NONE,
    ) -> Mapping[str, Float64[np.ndarray, "T T"]]:
        """Return the rows of each branch in the kernel."""
        if self.kernel.branches is None:
            return super().branch_rows(computed_steps, grid, branch_steps)
        joint = self._joint(computed_steps, grid, branch_steps)
        return dict(zip(self.kernel.branches.names, joint.rows, strict=True))

    def cross_rows(
        self,
        computed_steps: Sequence[int] | np.ndarray,
        grid: Grid,
        branch_steps: Mapping[str, Sequence[int]] = NONE,
    ) -> Mapping[tuple[str, str], Float64[np.ndarray, "T T"]]:
        """Return rows over features of earlier branches, for steps at which only some branches compute."""
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
            raise ForecastError(f"The kernel has no branch {unknown[0]!r}; expected one of {branches.names}.")
        computed = as_steps(computed_steps).astype(np.int64)
        steps = [as_steps(branch_steps.get(name, computed)).astype(np.int64) for name in branches.names]
        moments = KernelMoments(branches.pooled, branches.guided, kernel.final_weights)
        return self._fitted(moments, branches.mixing, steps, computed, grid, branch_weight=self.branch_weight)

    def _fitted(
        self,
        moments: KernelMoments,
        mixing: np.ndarray,
        steps: Sequence[np.ndarray],
        computed: np.ndarray,
        grid: Grid,
        *,
        branch_weight: float,
    ) -> JointRows:
        """Fit all segments in turn; ``steps`` are those of each branch, ``computed`` those of any."""
        joint = JointRows(
            moments,
            mixing,
            steps,
            len(grid),
            ridge=self.ridge,
            branch_weight=branch_weight,
            feedback_gain=self.feedback_gain,
        )
        source = self.prior
        prior = None if source is None else lambda before, wanted: source.segment(before, wanted, grid)
        for step, end in itertools.pairwise((*computed.tolist(), len(grid))):
            joint.fit(step, end, prior, sum_to_one=self.sum_to_one)
        return joint

    def branch_segment(
        self, computed: Int64[np.ndarray, " K"], steps: Int64[np.ndarray, " N"], grid: Grid
    ) -> Float64[np.ndarray, "B N K"]:
        """Return each branch's rows of several steps, all from the same computed steps."""
        branches = self.kernel.on(grid).branches
        assert branches is not None
        count = len(branches.names)
        shape = (count, branches.steps)
        among = branches.pooled.reshape(shape + shape)[:, computed]
        size = count * computed.size
        return np.stack(
            solve_branches(
                among[:, :, :, computed].reshape(size, size),
                among[:, :, :, steps].reshape(size, count, steps.size),
                branches.mixing,
                np.split(np.arange(size), count),
                ridge=self.ridge,
                branch_weight=self.branch_weight,
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
