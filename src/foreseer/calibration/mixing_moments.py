"""Second moments of features' channels and what the sample lacks; matrices fitted on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

RIDGES = tuple(10.0**power for power in range(-7, 2))
TOKENS = 2**14  # multiplied at a time


@dataclass(frozen=True, eq=False)
class MixingMoments:
    r"""Sums over tokens of all prompts: $X^T X$, $X^T r$ and $r^T r$.

    Attributes:
        among: shape (K C, K C), of the channels of K features.
        wanted: shape (K C, C), of these with the sample's missing part.
        square: of the missing part.
    """

    among: Float64[np.ndarray, "M M"]
    wanted: Float64[np.ndarray, "M C"]
    square: float

    @classmethod
    def none(cls, features: int, channels: int) -> MixingMoments:
        """Sums over no token."""
        size = features * channels
        return cls(np.zeros((size, size)), np.zeros((size, channels)), 0.0)

    @classmethod
    def of(cls, features: Sequence[Float[Tensor, "N C"]], missing: Float[Tensor, "N D"]) -> MixingMoments:
        """Moments of one prompt's tokens, in float64; the missing part may have more channels than a feature."""
        size = sum(feature.shape[1] for feature in features)
        moments = cls(np.zeros((size, size)), np.zeros((size, missing.shape[1])), 0.0)
        for start in range(0, missing.shape[0], TOKENS):
            tokens = slice(start, start + TOKENS)
            design = torch.cat([feature[tokens] for feature in features], dim=1).double()
            target = missing[tokens].double()
            moments += cls(
                (design.T @ design).cpu().numpy(),
                (design.T @ target).cpu().numpy(),
                float(target.square().sum()),
            )
        return moments

    def encode(self) -> bytes:
        """Among and wanted, row by row, then the square; as float64."""
        return np.concatenate([self.among.ravel(), self.wanted.ravel(), [self.square]]).tobytes()

    @classmethod
    def decode(cls, content: bytes, channels: int) -> MixingMoments:
        """The inverse of :meth:`encode`."""
        numbers = np.frombuffer(content)
        size = round(((channels**2 + 4 * (numbers.size - 1)) ** 0.5 - channels) / 2)
        among, wanted = np.split(numbers[:-1], [size**2])
        return cls(among.reshape(size, size), wanted.reshape(size, channels), float(numbers[-1]))

    def __add__(self, other: MixingMoments) -> MixingMoments:
        return MixingMoments(self.among + other.among, self.wanted + other.wanted, self.square + other.square)

    def relative(self) -> MixingMoments:
        """Divided by the square of what is missing, if anything is: prompts then count alike."""
        weight = 1.0 / self.square if self.square > 0 else 1.0
        return MixingMoments(self.among * weight, self.wanted * weight, self.square * weight)

    def fit(self, ridge: float) -> Float64[np.ndarray, "M C"]:
        r"""$(X^T X + \lambda \bar s I)^{-1} X^T r$ with $\bar s$ the mean square of a channel's sum.

        >>> moments = MixingMoments(np.eye(2), np.array([[3.0], [0.0]]), 9.0)
        >>> moments.fit(0.5).ravel().tolist(), moments.left(moments.fit(0.0))
        ([2.0, 0.0], 0.0)
        """
        size = self.among.shape[0]
        strength = ridge * float(self.among.trace()) / size
        return np.linalg.solve(self.among + (strength + np.finfo(np.float64).tiny) * np.eye(size), self.wanted)

    def scalar(self) -> MixingMoments:
        """The same of whole features: channels count as more tokens, so that one weight per feature is fitted."""
        channels = self.wanted.shape[1]
        size = self.among.shape[0] // channels
        among = np.einsum("jckc->jk", self.among.reshape(size, channels, size, channels))
        wanted = np.einsum("jcc->j", self.wanted.reshape(size, channels, channels))
        return MixingMoments(among, wanted[:, None], self.square)

    def without_first(self) -> MixingMoments:
        """The same without the first feature."""
        channels = self.wanted.shape[1]
        return MixingMoments(self.among[channels:, channels:], self.wanted[channels:], self.square)

    def beyond(self, matrices: Float64[np.ndarray, "M C"]) -> MixingMoments:
        r"""The same with $r - X M$ as the missing part."""
        return MixingMoments(self.among, self.wanted - self.among @ matrices, self.left(matrices))

    def left(self, matrices: Float64[np.ndarray, "M C"]) -> float:
        r"""$\sum |r - X M|^2$."""
        through = np.einsum("mc,mc->", matrices, self.among @ matrices - 2 * self.wanted)
        return self.square + float(through)


@dataclass(frozen=True, eq=False)
class MixingFit:
    """Matrices chosen by held-out prompts.

    Attributes:
        matrices: shape (K, C, C); ``None`` where no ridge lessens what is missing on the held-out prompts.
        ridge: of the fit.
        kept: share of the held-out square error that is left, 1 without matrices.
    """

    matrices: Float64[np.ndarray, "K C C"] | None
    ridge: float
    kept: float


def choose_matrices(fitted: MixingMoments, held_out: MixingMoments, ridges: Sequence[float] = RIDGES) -> MixingFit:
    """Fit at each ridge; keep the fit with the least held-out error, if less than without matrices.

    >>> noise = MixingMoments(np.eye(1), np.array([[1.0]]), 1.0), MixingMoments(np.eye(1), np.array([[-1.0]]), 1.0)
    >>> choose_matrices(*noise).matrices is None
    True
    """
    channels = fitted.wanted.shape[1]
    best, best_ridge, least = None, 0.0, held_out.square
    for ridge in ridges:
        matrices = fitted.fit(ridge)
        left = held_out.left(matrices)
        if np.isfinite(left) and left < least:
            best, best_ridge, least = matrices, ridge, left
    kept = least / held_out.square if held_out.square > 0 else 1.0
    return MixingFit(best.reshape(-1, channels, channels) if best is not None else None, best_ridge, max(kept, 0.0))
