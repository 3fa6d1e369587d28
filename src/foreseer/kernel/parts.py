"""Second moments of the parts of a network, and of the tensors of a feature that has several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.checks import frozen
from foreseer.errors import ForeseerError
from foreseer.kernel.level_interpolation import LevelInterpolation
from foreseer.kernel.moments import problem_of


class PartsError(ForeseerError, ValueError):
    """Names and moments of parts are inconsistent."""


@dataclass(frozen=True, eq=False)
class Parts:
    r"""Moments $G^m_{ij} = E \langle F^m_i, F^m_j \rangle / \dim F^m$ of each part m over prompts.

    Args:
        names: M names as used by the runtime: each part's path in the network, or :func:`tensor_names` without the
            first.
        grams: shape (M, T, T), float64, symmetric.

    Raises:
        PartsError: names repeat, or a shape or value is invalid.
    """

    names: tuple[str, ...]
    grams: Float64[np.ndarray, "M T T"] = field(repr=False)

    def __post_init__(self) -> None:
        names, grams = tuple(self.names), frozen(self.grams)
        if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise PartsError(f"The parts are {names}; expected at least one name, all distinct.")
        if grams.ndim != 3 or grams.shape[1] != grams.shape[2] or len(grams) != len(names):
            raise PartsError(f"The parts' Grams have shape {grams.shape}; expected ({len(names)}, T, T).")
        problem = problem_of(grams)
        if problem is not None:
            raise PartsError(f"Parts: {problem}")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "grams", grams)

    def __reduce__(self) -> tuple[Any, ...]:
        return Parts, (self.names, self.grams)

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return self.grams.shape[1]

    @property
    def are_tensors(self) -> bool:
        """Whether these are the further tensors of a feature, whose first has the shared rows."""
        return self.names == tensor_names(len(self.names) + 1)[1:]

    def merge(self, other: Parts, prompts: Sequence[int]) -> Parts | None:
        """Average two recordings, weighted by their numbers of prompts; ``None`` if their parts differ."""
        if self.names != other.names:
            return None
        return replace(self, grams=np.average(np.stack([self.grams, other.grams]), axis=0, weights=prompts))

    def interpolated(self, interpolation: LevelInterpolation) -> Parts:
        """Return the moments at other noise levels."""
        return replace(self, grams=interpolation.of(self.grams))


def tensor_names(count: int) -> tuple[str, ...]:
    """Names of the tensors of a feature; the first has the empty name, because it follows the shared rows.

    >>> tensor_names(3)
    ('', 'tensor 2', 'tensor 3')
    """
    return ("", *(f"tensor {number}" for number in range(2, count + 1)))[:count]


def balanced(grams: Float64[np.ndarray, "M T T"]) -> Float64[np.ndarray, "T T"]:
    """Average over parts, each divided by its mean square so that all have equal weight."""
    squares = np.einsum("mii->m", grams) / grams.shape[1]
    return np.mean(grams / np.maximum(squares, np.finfo(np.float64).tiny)[:, None, None], axis=0)
