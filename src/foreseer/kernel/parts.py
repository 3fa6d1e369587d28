"""Parts: second moments of each part of a network whose output is a feature of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.checks import frozen
from foreseer.errors import ForeseerError
from foreseer.kernel.between import Between
from foreseer.kernel.moments import fault_of


class PartsError(ForeseerError, ValueError):
    """Names and moments of parts that do not belong together."""


@dataclass(frozen=True, eq=False)
class Parts:
    r"""For each part m of the network, $G^m_{ij} = E \langle F^m_i, F^m_j \rangle / \dim F^m$, the mean over prompts.

    Args:
        names: M of them, as the runtime names the parts of a feature: their path in the network.
        grams: shape (M, T, T), float64, symmetric.

    Raises:
        PartsError: a name is there twice, or a shape or a value is not as said above.
    """

    names: tuple[str, ...]
    grams: Float64[np.ndarray, "M T T"] = field(repr=False)

    def __post_init__(self) -> None:
        names, grams = tuple(self.names), frozen(self.grams)
        if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise PartsError(f"The parts are {names}; expected at least one name, each once.")
        if grams.ndim != 3 or grams.shape[1] != grams.shape[2] or len(grams) != len(names):
            raise PartsError(f"The parts' Grams have shape {grams.shape}; expected ({len(names)}, T, T).")
        fault = fault_of(grams)
        if fault is not None:
            raise PartsError(f"Parts: {fault}")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "grams", grams)

    def __reduce__(self) -> tuple[Any, ...]:
        return Parts, (self.names, self.grams)

    @property
    def steps(self) -> int:
        """T."""
        return self.grams.shape[1]

    def merge(self, other: Parts, prompts: Sequence[int]) -> Parts | None:
        """The mean over both recordings, of so many prompts each; ``None`` where they are of other parts."""
        if self.names != other.names:
            return None
        return replace(self, grams=np.average(np.stack([self.grams, other.grams]), axis=0, weights=prompts))

    def interpolated(self, between: Between) -> Parts:
        """The moments at other noise levels."""
        return replace(self, grams=between.of(self.grams))


def balanced(grams: Float64[np.ndarray, "M T T"]) -> Float64[np.ndarray, "T T"]:
    """The mean over parts, each in units of its own mean square, so that all count alike."""
    squares = np.einsum("mii->m", grams) / grams.shape[1]
    return np.mean(grams / np.maximum(squares, np.finfo(np.float64).tiny)[:, None, None], axis=0)
