"""Interpolation of second moments along the noise level, with an estimate of its error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from foreseer.errors import ForeseerError
from foreseer.grid import Grid

POINTS = 4  # cubic: the features are smooth along the trajectory
REACH = 1.0  # extrapolation limit beyond the recorded levels, in units of the spacing at that end
_SMOOTHEST = 2.0 ** -(2 * POINTS)  # least factor by which halving the spacing reduces a squared error


class LevelError(ForeseerError, ValueError):
    """A noise level lies too far outside the recorded ones."""


@dataclass(frozen=True)
class LevelInterpolation:
    r"""Features at new noise levels: $F(w) = \sum_i A_{wi} F_i + \sum_j B_{wj} \epsilon_j$.

    The first sum is local cubic interpolation. The second models its error: $\epsilon_j$ is uncorrelated with the
    features and has the size of the leave-one-out residual $R_j$ of recorded level j, which is a combination of the
    recorded features. The error term is 0 at recorded levels and grows with the distance from them.

    Attributes:
        weights: A, shape (N, T).
        residuals: R, shape (T, T).
        bumps: B, shape (N, T).
    """

    weights: Float64[np.ndarray, "N T"]
    residuals: Float64[np.ndarray, "T T"]
    bumps: Float64[np.ndarray, "N T"]

    @classmethod
    def grids(cls, known: Grid, wanted: Grid, moments: Float64[np.ndarray, "T T"]) -> LevelInterpolation:
        r"""Interpolate from one grid to another, where levels may be visited more than once.

        First visits are interpolated as in :meth:`levels`. A further visit v of level w is the first visit plus the
        interpolated difference of the visits, $F^v(w) = F(w) + \sum_j D_{wj} (F^v_j - F_j)$ with D linear: the
        visits of a level differ little.

        Args:
            known: recorded grid of T steps.
            wanted: new grid of N steps.
            moments: as for :meth:`levels`.

        Raises:
            LevelError: a wanted level lies too far outside the recorded ones.
        """
        if not (known.repeats or wanted.repeats):
            return cls.levels(known.levels, wanted.levels, moments)
        visits, wanted_visits = np.array(known.visits), np.array(wanted.visits)
        first = np.flatnonzero(visits == 0)
        at, wanted_at = (grid.levels[np.arange(len(grid)) - np.array(grid.visits)] for grid in (known, wanted))
        plain = cls.levels(known.levels[first], wanted_at, moments[np.ix_(first, first)])
        weights, bumps = (np.zeros((len(wanted), len(known))) for _ in range(2))
        residuals = np.zeros((len(known), len(known)))
        weights[:, first], bumps[:, first] = plain.weights, plain.bumps
        residuals[np.ix_(first, first)] = plain.residuals
        for row in np.flatnonzero(wanted_visits).tolist() if known.repeats else ():
            visit = min(wanted_visits[row], visits.max())
            steps = np.flatnonzero(visits == visit)
            shares = np.array([np.interp(-wanted_at[row], -at[steps], unit) for unit in np.eye(steps.size)])
            weights[row, steps] += shares
            weights[row, steps - visit] -= shares
        return cls(weights, residuals, bumps)

    @classmethod
    def levels(
        cls, known: Float64[np.ndarray, " T"], wanted: Float64[np.ndarray, " N"], moments: Float64[np.ndarray, "T T"]
    ) -> LevelInterpolation:
        """Interpolate from the levels ``known`` to the levels ``wanted``, both in decreasing order.

        Args:
            known: recorded noise levels, shape (T,).
            wanted: new noise levels, shape (N,).
            moments: second moments of the recorded features, shape (T, T); they give the rate at which residuals fall
                with the spacing.

        Raises:
            LevelError: a wanted level lies too far outside the recorded ones.
        """
        weights = interpolation_weights(known, wanted)
        if known.size == 1:
            return cls(weights, np.zeros((1, 1)), np.zeros((wanted.size, 1)))
        return cls(weights, _residuals(known), np.sqrt(_refinement_factor(known, moments)) * _bumps(known, wanted))

    def of(self, grams: Float64[np.ndarray, "P N N"], blocks: int = 1) -> np.ndarray:
        """Return moments at the wanted levels from moments at the recorded levels.

        Args:
            grams: shape (P, blocks T, blocks T), block by block.
            blocks: number of features per level.
        """
        steps = self.weights.shape[1]
        blocked = grams.reshape(-1, blocks, steps, blocks, steps)
        moments = np.einsum("wi,pbicj,vj->pbwcv", self.weights, blocked, self.weights, optimize=True)
        sizes = np.einsum("ki,pbicj,kj->pbkc", self.residuals, blocked, self.residuals, optimize=True)
        moments += ((self.bumps * sizes.transpose(0, 1, 3, 2)[:, :, :, None]) @ self.bumps.T).transpose(0, 1, 3, 2, 4)
        flat = moments.reshape(len(grams), blocks * len(self.weights), -1)
        return 0.5 * (flat + flat.transpose(0, 2, 1))


def interpolation_weights(known: Float64[np.ndarray, " T"], wanted: Float64[np.ndarray, " N"]) -> np.ndarray:
    """Return A, shape (N, T): Lagrange weights of the nearest ``POINTS`` known levels.

    Raises:
        LevelError: a wanted level lies too far outside the known ones.
    """
    count = min(POINTS, known.size)
    top = known[0] + REACH * (known[0] - known[1] if known.size > 1 else 0.0)
    bottom = known[-1] - REACH * (known[-2] - known[-1] if known.size > 1 else 0.0)
    slack = 1e-9 * abs(known[0])
    beyond = [float(level) for level in wanted if level > top + slack or level < bottom - slack]
    if beyond:
        raise LevelError(
            f"The run visits noise level {beyond[0]:.4g}, but the kernel was calibrated from {known[0]:.4g} to "
            f"{known[-1]:.4g}: calibrate on a grid that reaches there."
        )
    weights = np.zeros((wanted.size, known.size))
    for row, level in enumerate(wanted):
        nearest = int(np.searchsorted(-known, -level))
        first = min(max(nearest - count // 2, 0), known.size - count)
        nodes = known[first : first + count]
        for k in range(count):
            others = np.delete(nodes, k)
            weights[row, first + k] = np.prod((level - others) / (nodes[k] - others))
    return weights


def _residuals(known: np.ndarray) -> np.ndarray:
    """Return R: each level minus its interpolation (extrapolation at the ends) from the others."""
    residuals = np.eye(known.size)
    for level in range(known.size):
        others = np.delete(known, level)
        count = min(POINTS, others.size)
        first = min(max(level - count // 2, 0), others.size - count)
        nodes = others[first : first + count]
        columns = np.delete(np.arange(known.size), level)[first : first + count]
        for k in range(count):
            rest = np.delete(nodes, k)
            residuals[level, columns[k]] = -np.prod((known[level] - rest) / (nodes[k] - rest))
    return residuals


def _bumps(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return B unscaled: 1 halfway between two levels; beyond the ends, the distance in spacings."""
    last = known.size - 1
    bumps = np.zeros((wanted.size, known.size))
    for row, level in enumerate(wanted):
        if level > known[0] or level < known[-1]:
            end, other = (0, 1) if level > known[0] else (last, last - 1)
            bumps[row, end] = abs((level - known[end]) / (known[end] - known[other]))
            continue
        after = min(max(int(np.searchsorted(-known, -level)), 1), last)
        fraction = (known[after - 1] - level) / (known[after - 1] - known[after])
        inner = [index for index in (after - 1, after) if 0 < index < last] or [after - 1, after]
        bumps[row, inner] = 4.0 * fraction * (1.0 - fraction) / np.sqrt(len(inner))
    return bumps


def _refinement_factor(known: np.ndarray, moments: np.ndarray) -> float:
    """Return the ratio of squared residuals at full spacing to those at every second level, at most 1."""
    if known.size < 5:
        return 1.0
    sizes = []
    for every in (2, 1):
        part = np.ix_(range(0, known.size, every), range(0, known.size, every))
        residuals = _residuals(known[::every])[1:-1]
        sizes.append(float(np.einsum("ki,ij,kj->k", residuals, moments[part], residuals).mean()))
    coarse, fine = sizes
    return float(np.clip(fine / max(coarse, np.finfo(np.float64).tiny), _SMOOTHEST, 1.0))
