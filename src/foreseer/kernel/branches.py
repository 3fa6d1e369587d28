"""Second moments of the branches of a denoiser that is called more than once per step (guidance)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.checks import frozen
from foreseer.errors import ForeseerError
from foreseer.kernel.level_interpolation import LevelInterpolation
from foreseer.kernel.moments import LARGEST, problem_of

Rows = Mapping[str, Float64[np.ndarray, "T T"]]
CrossRows = Mapping[tuple[str, str], Float64[np.ndarray, "T T"]]
MIXING_TOLERANCE = 1e-2  # between two recordings; half precision gives coefficients to three digits


class BranchesError(ForeseerError, ValueError):
    """Names, coefficients and moments of branches are inconsistent."""


@dataclass(frozen=True, eq=False)
class Branches:
    r"""Coefficients k and second moments of branches with guided output $\sum_b k_b F^b_i$ at step i.

    Args:
        names: B >= 2 names as used by the runtime: the cache context's name, or "call n".
        mixing: k, shape (B,), without zeros.
        grams: shape (P, B T, B T), float64, symmetric, branch by branch: the moment of $F^b_i$ and $F^c_j$ is at
            (b T + i, c T + j).

    Raises:
        BranchesError: names repeat, or a shape or value is invalid.
    """

    names: tuple[str, ...]
    mixing: Float64[np.ndarray, " B"]
    grams: Float64[np.ndarray, "P N N"] = field(repr=False)

    def __post_init__(self) -> None:
        names = tuple(self.names)
        if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise BranchesError(f"The branches are {names}; expected at least two distinct names.")
        mixing, grams = frozen(self.mixing), frozen(self.grams)
        if mixing.shape != (len(names),) or not np.all(np.abs(mixing) <= LARGEST) or not np.all(mixing):
            raise BranchesError(f"The mixing is {mixing}; expected {len(names)} finite numbers other than 0.")
        if grams.ndim != 3 or grams.shape[1] != grams.shape[2] or grams.shape[1] % len(names) or not grams.size:
            raise BranchesError(f"The branches' Grams have shape {grams.shape}; expected (prompts, B T, B T).")
        problem = problem_of(grams)
        if problem is not None:
            raise BranchesError(f"Branches: {problem}")
        object.__setattr__(self, "mixing", mixing)
        object.__setattr__(self, "grams", grams)
        object.__setattr__(self, "names", names)

    def __reduce__(self) -> tuple[Any, ...]:
        return Branches, (self.names, self.mixing, self.grams)

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return self.grams.shape[1] // len(self.names)

    @cached_property
    def pooled(self) -> Float64[np.ndarray, "N N"]:
        """Mean over prompts, shape (B T, B T)."""
        mean = self.grams.mean(axis=0)
        mean.setflags(write=False)
        return mean

    @cached_property
    def guided(self) -> Float64[np.ndarray, "T N"]:
        r"""Guided outputs as combinations of branch features: $k^T \otimes I$."""
        return np.kron(self.mixing, np.eye(self.steps))

    def forecast(self, rows: Rows, cross_rows: CrossRows | None = None) -> Float64[np.ndarray, "T N"]:
        """Return the guided forecasts of a plan as combinations of branch features.

        Args:
            rows: each branch's rows over its own features, by name.
            cross_rows: rows over another branch's features, by (branch, other).
        """
        forecast = np.hstack([weight * rows[name] for name, weight in zip(self.names, self.mixing, strict=True)])
        for (branch, other), matrix in (cross_rows or {}).items():
            first = self.names.index(other) * self.steps
            forecast[:, first : first + self.steps] += self.mixing[self.names.index(branch)] * matrix
        return forecast

    def same_guidance(self, other: Branches) -> bool:
        """Return whether both have the same names and, to rounding, the same coefficients."""
        most = MIXING_TOLERANCE * float(np.abs(self.mixing).max())
        return self.names == other.names and bool(np.all(np.abs(self.mixing - other.mixing) <= most))

    def merge(self, other: Branches) -> Branches:
        """Concatenate the prompts of both recordings; coefficients are those of the first."""
        return replace(self, grams=np.concatenate([self.grams, other.grams]))

    def subset(self, prompts: list[int]) -> Branches:
        """Select prompts by index."""
        return replace(self, grams=self.grams[prompts])

    def interpolated(self, interpolation: LevelInterpolation) -> Branches:
        """Return the moments at other noise levels."""
        return replace(self, grams=interpolation.of(self.grams, blocks=len(self.names)))
