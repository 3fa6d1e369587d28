"""What recorded levels tell of a level between them, and how much they leave open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from foreseer.errors import ForeseerError

POINTS = 4  # cubic: the features are smooth along the trajectory
REACH = 1.0  # how far beyond the recorded levels, in units of the recorded spacing there
_SMOOTHEST = 2.0 ** -(2 * POINTS)  # halving the spacing divides a squared error by no more than this


class LevelError(ForeseerError, ValueError):
    """A noise level that is out of reach of the recorded ones."""


@dataclass(frozen=True)
class Between:
    r"""Features at other noise levels than the recorded ones: $F(w) = \sum_i A_{wi} F_i + \sum_j B_{wj} \epsilon_j$.

    The first sum is the local cubic interpolation. What it leaves open is estimated from the recording itself: the
    residual of each level, interpolated from its neighbours without it, is a combination $R_j$ of the features, and
    :math:`\epsilon_j` is something unknown of that residual's size. It is the larger, the farther a level is from the
    recorded ones, and 0 at these.

    Attributes:
        weights: A, shape (N, T).
        residuals: R, shape (T, T).
        bumps: B, shape (N, T).
    """

    weights: Float64[np.ndarray, "N T"]
    residuals: Float64[np.ndarray, "T T"]
    bumps: Float64[np.ndarray, "N T"]

    @classmethod
    def levels(
        cls, known: Float64[np.ndarray, " T"], wanted: Float64[np.ndarray, " N"], moments: Float64[np.ndarray, "T T"]
    ) -> Between:
        """From the levels ``known`` to the levels ``wanted``, both from noise to clean.

        Args:
            known: those recorded.
            wanted: those asked for.
            moments: of the recorded features: they tell how fast the residuals fall with the spacing.

        Raises:
            LevelError: a wanted level is out of reach.
        """
        weights = interpolation_weights(known, wanted)
        if known.size == 1:
            return cls(weights, np.zeros((1, 1)), np.zeros((wanted.size, 1)))
        return cls(weights, _residuals(known), np.sqrt(_shrinking(known, moments)) * _bumps(known, wanted))

    def of(self, grams: Float64[np.ndarray, "P N N"], blocks: int = 1) -> np.ndarray:
        """Moments at the wanted levels, from those at the recorded ones.

        Args:
            grams: shape (P, blocks T, blocks T), block by block.
            blocks: how many features there are at a level.
        """
        steps = self.weights.shape[1]
        apart = grams.reshape(-1, blocks, steps, blocks, steps)
        sure = np.einsum("wi,pbicj,vj->pbwcv", self.weights, apart, self.weights, optimize=True)
        sizes = np.einsum("ki,pbicj,kj->pbkc", self.residuals, apart, self.residuals, optimize=True)
        sure += np.einsum("wk,pbkc,vk->pbwcv", self.bumps, sizes, self.bumps, optimize=True)
        found = sure.reshape(len(grams), blocks * len(self.weights), -1)
        return 0.5 * (found + found.transpose(0, 2, 1))


def interpolation_weights(known: Float64[np.ndarray, " T"], wanted: Float64[np.ndarray, " N"]) -> np.ndarray:
    """A of shape (N, T): the Lagrange weights of the nearest ``POINTS`` known levels.

    Raises:
        LevelError: a wanted level is out of reach.
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
    """R: each level less its interpolation, or at the ends extrapolation, from the others."""
    found = np.eye(known.size)
    for level in range(known.size):
        others = np.delete(known, level)
        count = min(POINTS, others.size)
        first = min(max(level - count // 2, 0), others.size - count)
        nodes = others[first : first + count]
        places = np.delete(np.arange(known.size), level)[first : first + count]
        for k in range(count):
            rest = np.delete(nodes, k)
            found[level, places[k]] = -np.prod((known[level] - rest) / (nodes[k] - rest))
    return found


def _bumps(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """B without its scale: 1 halfway between two levels, shared by both; beyond the ends, the distance in spacings."""
    last = known.size - 1
    found = np.zeros((wanted.size, known.size))
    for row, level in enumerate(wanted):
        if level > known[0] or level < known[-1]:
            end, other = (0, 1) if level > known[0] else (last, last - 1)
            found[row, end] = abs((level - known[end]) / (known[end] - known[other]))
            continue
        after = min(max(int(np.searchsorted(-known, -level)), 1), last)
        along = (known[after - 1] - level) / (known[after - 1] - known[after])
        inner = [one for one in (after - 1, after) if 0 < one < last] or [after - 1, after]
        found[row, inner] = 4.0 * along * (1.0 - along) / np.sqrt(len(inner))
    return found


def _shrinking(known: np.ndarray, moments: np.ndarray) -> float:
    """By how much halving the spacing divides squared residuals: as seen from every second level to all; at most 1."""
    if known.size < 5:
        return 1.0
    sizes = []
    for every in (2, 1):
        part = np.ix_(range(0, known.size, every), range(0, known.size, every))
        residuals = _residuals(known[::every])[1:-1]
        sizes.append(float(np.einsum("ki,ij,kj->k", residuals, moments[part], residuals).mean()))
    coarse, fine = sizes
    return float(np.clip(fine / max(coarse, np.finfo(np.float64).tiny), _SMOOTHEST, 1.0))
