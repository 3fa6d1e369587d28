"""Branches: second moments of each call of a denoiser that is called more than once a step (guidance)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.checks import frozen
from foreseer.errors import ForeseerError
from foreseer.kernel.between import Between
from foreseer.kernel.moments import LARGEST, fault_of

Rows = Mapping[str, Float64[np.ndarray, "T T"]]
CrossRows = Mapping[tuple[str, str], Float64[np.ndarray, "T T"]]
MIXING_TOLERANCE = 1e-2  # between two recordings; half precision tells coefficients to three digits


class BranchesError(ForeseerError, ValueError):
    """Names, coefficients and moments of branches that do not belong together."""


@dataclass(frozen=True, eq=False)
class Branches:
    r"""The guided output of step i is $\sum_b k_b F^b_i$; here are k and all inner products of the $F^b_i$.

    Args:
        names: B of them, at least two, as the runtime names branches: the cache context's name, or "call n".
        mixing: shape (B,), k; none is zero.
        grams: shape (P, B T, B T), float64, symmetric, branch by branch: the moment of $F^b_i$ and $F^c_j$ is at
            (b T + i, c T + j).

    Raises:
        BranchesError: a name is there twice, or a shape or a value is not as said above.
    """

    names: tuple[str, ...]
    mixing: Float64[np.ndarray, " B"]
    grams: Float64[np.ndarray, "P N N"] = field(repr=False)

    def __post_init__(self) -> None:
        names = tuple(self.names)
        if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise BranchesError(f"The branches are {names}; expected two names or more, each once.")
        mixing, grams = frozen(self.mixing), frozen(self.grams)
        if mixing.shape != (len(names),) or not np.all(np.abs(mixing) <= LARGEST) or not np.all(mixing):
            raise BranchesError(f"The mixing is {mixing}; expected {len(names)} finite numbers other than 0.")
        if grams.ndim != 3 or grams.shape[1] != grams.shape[2] or grams.shape[1] % len(names) or not grams.size:
            raise BranchesError(f"The branches' Grams have shape {grams.shape}; expected (prompts, B T, B T).")
        fault = fault_of(grams)
        if fault is not None:
            raise BranchesError(f"Branches: {fault}")
        object.__setattr__(self, "mixing", mixing)
        object.__setattr__(self, "grams", grams)
        object.__setattr__(self, "names", names)

    def __reduce__(self) -> tuple[Any, ...]:
        return Branches, (self.names, self.mixing, self.grams)

    @property
    def steps(self) -> int:
        """T."""
        return self.grams.shape[1] // len(self.names)

    @cached_property
    def pooled(self) -> Float64[np.ndarray, "N N"]:
        """The mean over prompts."""
        mean = self.grams.mean(axis=0)
        mean.setflags(write=False)
        return mean

    @cached_property
    def guided(self) -> Float64[np.ndarray, "T N"]:
        r"""The guided outputs as combinations of the branches' features: $k^T \otimes I$."""
        return np.kron(self.mixing, np.eye(self.steps))

    def forecast(self, rows: Rows, cross_rows: CrossRows | None = None) -> Float64[np.ndarray, "T N"]:
        """The guided forecasts of a plan, as combinations of the branches' features.

        Args:
            rows: those of each branch over its own features.
            cross_rows: by (branch, other), those over another branch's.
        """
        found = np.hstack([weight * rows[name] for name, weight in zip(self.names, self.mixing, strict=True)])
        for (branch, other), matrix in (cross_rows or {}).items():
            first = self.names.index(other) * self.steps
            found[:, first : first + self.steps] += self.mixing[self.names.index(branch)] * matrix
        return found

    def mix_alike(self, other: Branches) -> bool:
        """Whether both are the same branches under the same guidance."""
        most = MIXING_TOLERANCE * float(np.abs(self.mixing).max())
        return self.names == other.names and bool(np.all(np.abs(self.mixing - other.mixing) <= most))

    def merge(self, other: Branches) -> Branches:
        """Both recordings' prompts; the coefficients are those of the first."""
        return replace(self, grams=np.concatenate([self.grams, other.grams]))

    def subset(self, prompts: list[int]) -> Branches:
        """The moments of some of the prompts, by index."""
        return replace(self, grams=self.grams[prompts])

    def interpolated(self, between: Between) -> Branches:
        """The moments at other noise levels."""
        return replace(self, grams=between.of(self.grams, blocks=len(self.names)))
