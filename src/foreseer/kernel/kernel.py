"""The kernel: second moments of features over the grid, all that a linear predictor can learn from them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.checks import check_kind, frozen
from foreseer.errors import ForeseerError
from foreseer.grid import Grid
from foreseer.kernel.branches import Branches
from foreseer.kernel.moments import fault_of
from foreseer.kernel.parts import Parts
from foreseer.site import read_site


class KernelError(ForeseerError, ValueError):
    """Second moments that do not belong together, or a grid that a kernel cannot cover."""


CONSISTENT = 0.2  # half-precision guidance rounds
RESPONSE = 12.0  # fitted on the bundled pipeline; a pipeline's own is measured with its kernel


@dataclass(frozen=True, eq=False, repr=False)
class Kernel:
    r"""$G_{ij} = \langle F_i, F_j \rangle / \dim F$, one matrix a prompt.

    Args:
        grid: the noise levels at which features were recorded, T of them.
        grams: shape (P, T, T), float64, symmetric; P prompts.
        sampler: shape (T + 1, T + 1), the sampler matrix of the recorded runs; ``None`` for a stochastic scheduler.
        final_squares: shape (P,), mean square of each prompt's final sample; ``None`` where unknown.
        site: where features were taken.
        response: how strongly the network answers an error of the sample; see :meth:`response_to`. At least 0.
        effects: shape (T,), what an error in each step's output does to the final sample, where there is no sampler
            matrix but it is known better than by lengths; not kept with the file.
        branches: moments of each of several branches, where the features above are their combination under guidance.
        output_squares: shape (P, T), mean squares of the outputs, where features are of another site.
        parts: moments of each of several parts of the network, where features are taken from many: the Grams above are
            then their :func:`foreseer.kernel.parts.balanced` mean.
        provenance: model, scheduler, guidance, prompts' hash, versions: words kept with the file.

    Raises:
        KernelError: a shape or a value is not as said above.
        PlanError: the site is unknown.
    """

    grid: Grid
    grams: Float64[np.ndarray, "P T T"] = field(repr=False)
    sampler: Float64[np.ndarray, "T1 T1"] | None = field(default=None, repr=False)
    final_squares: Float64[np.ndarray, " P"] | None = field(default=None, repr=False)
    site: str = "output"
    provenance: Mapping[str, str] = field(default_factory=dict)
    response: float = RESPONSE
    effects: Float64[np.ndarray, " T"] | None = field(default=None, repr=False)
    branches: Branches | None = field(default=None, repr=False)
    output_squares: Float64[np.ndarray, "P T"] | None = field(default=None, repr=False)
    parts: Parts | None = field(default=None, repr=False)
    _interpolated: dict[bytes, Kernel] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        steps = len(self.grid)
        grams = frozen(self.grams)
        if grams.ndim != 3 or grams.shape[0] < 1 or grams.shape[1:] != (steps, steps):
            raise KernelError(f"The Grams have shape {grams.shape}; expected (prompts, {steps}, {steps}).")
        fault = fault_of(grams)
        if fault is not None:
            raise KernelError(fault)
        object.__setattr__(self, "grams", grams)
        if self.sampler is not None:
            sampler = frozen(self.sampler)
            if sampler.shape != (steps + 1, steps + 1) or not np.all(np.isfinite(sampler)):
                raise KernelError(f"The sampler matrix has shape {sampler.shape}; expected ({steps + 1}, {steps + 1}).")
            object.__setattr__(self, "sampler", sampler)
        if self.final_squares is not None:
            squares = frozen(self.final_squares)
            if squares.shape != (self.prompts,) or not np.all((squares > 0) & np.isfinite(squares)):
                raise KernelError(
                    f"The final squares have shape {squares.shape}; expected ({self.prompts},), positive and finite."
                )
            object.__setattr__(self, "final_squares", squares)
        read_site(self.site)
        if not (np.isfinite(self.response) and self.response >= 0):
            raise KernelError(f"The response is {self.response}; expected a finite number of at least 0.")
        _check_branches(self.branches, grams)
        if self.output_squares is not None:
            squares = frozen(self.output_squares)
            if squares.shape != grams.shape[:2] or not np.all((squares >= 0) & np.isfinite(squares)):
                raise KernelError(
                    f"The outputs' squares have shape {squares.shape}; expected {grams.shape[:2]}, finite, at least 0."
                )
            object.__setattr__(self, "output_squares", squares)
        if self.parts is not None and self.parts.steps != steps:
            raise KernelError(f"The parts hold {self.parts.steps} steps; expected {steps}.")
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self.grid,
            self.grams,
            self.sampler,
            self.final_squares,
            self.site,
            dict(self.provenance),
            self.response,
            self.effects,
            self.branches,
            self.output_squares,
            self.parts,
        )
        return Kernel, fields

    def __repr__(self) -> str:
        return f"<kernel of {self.prompts} prompts on {len(self.grid)} steps, {self.provenance.get('model', '?')}>"

    @property
    def prompts(self) -> int:
        """How many prompts were recorded."""
        return int(self.grams.shape[0])

    @cached_property
    def pooled(self) -> Float64[np.ndarray, "T T"]:
        """The mean over prompts."""
        mean = self.grams.mean(axis=0)
        mean.setflags(write=False)
        return mean

    @cached_property
    def final_weights(self) -> Float64[np.ndarray, " T"]:
        """What an error in the feature of each step does to the final sample, signs included.

        At another site than the output, an error there is taken to be as large an error of the output, relatively.
        """
        if self.output_squares is None:
            return self.output_effects
        features = np.maximum(np.diag(self.pooled), np.finfo(np.float64).tiny)
        return self.output_effects * np.sqrt(self.output_squares.mean(axis=0) / features)

    @cached_property
    def output_effects(self) -> Float64[np.ndarray, " T"]:
        """What an error in the output of each step does to the final sample.

        The last row of the sampler matrix; without one, the lengths of the steps in noise level, which is exact for
        Euler's method.
        """
        if self.sampler is not None:
            return self.sampler[-1, 1:]
        if self.effects is not None:
            return self.effects
        return -np.diff(np.append(self.grid.levels, self.grid.final_level))

    @cached_property
    def remaining(self) -> Float64[np.ndarray, " T1"]:
        """How much of the run is still to come: shape (T + 1,), from 1 before step 0 to 0 at the end."""
        lengths = np.abs(self.output_effects)
        return np.append(np.cumsum(lengths[::-1])[::-1], 0.0) / max(float(lengths.sum()), np.finfo(np.float64).tiny)

    def response_to(self, step: int, until: int) -> float:
        r"""What a squared error of the sample adds to the squared final error by way of the network.

        A computed step sees the perturbed sample and answers to it; its answer is in use until the next computed step.
        Early errors change what is drawn, late ones do not: $a^2 \tau_s^4 (\tau_s - \tau_{until})$, with $\tau$ what
        remains of the run and a the kernel's response. (Measured, not derived: see benchmarks/README.md.)
        """
        left = self.remaining
        return float(self.response**2 * left[step] ** 4 * (left[step] - left[until]))

    @property
    def knows_final_error(self) -> bool:
        """Whether an expected error of the final sample can be told: not for a stochastic scheduler."""
        weighted = self.sampler is not None or self.effects is not None
        return self.final_squares is not None and weighted

    def merge(self, other: Kernel, *, may_share: bool = False, may_differ: Collection[str] = ()) -> Kernel:
        """Both kernels' prompts in one.

        Args:
            other: the one to add.
            may_share: whether a run may be in both; it counts twice then.
            may_differ: words of ``provenance`` (``"options"``, ``"dtype"``, ...) in which they need not agree.

        Raises:
            KernelError: they are of other grids, sites, samplers or models or were recorded otherwise, or a run of one
                is in the other too and may not be; or ``may_differ`` holds an unknown word.
        """
        from foreseer.kernel.merge import merge

        check_kind("other", other, Kernel, KernelError)
        return merge(self, other, may_share=may_share, may_differ=may_differ)

    def subset(self, prompts: list[int]) -> Kernel:
        """The kernel of some of the prompts, by index; the parts, kept as means over all, are left out."""
        squares = None if self.final_squares is None else self.final_squares[prompts]
        branches = None if self.branches is None else self.branches.subset(prompts)
        outputs = None if self.output_squares is None else self.output_squares[prompts]
        return replace(
            self,
            grams=self.grams[prompts],
            final_squares=squares,
            branches=branches,
            output_squares=outputs,
            parts=None,
        )

    def on(self, grid: Grid) -> Kernel:
        """This kernel on another grid; see :func:`foreseer.kernel.interpolate.interpolate`.

        Raises:
            KernelError: the grid reaches beyond the recorded noise levels, is in another unit, or is no grid.
        """
        check_kind("grid", grid, Grid, KernelError)
        if grid.matches(self.grid):
            return self
        found = self._interpolated.get(grid.key)
        if found is None:
            from foreseer.kernel.interpolate import interpolate

            found = self._interpolated[grid.key] = interpolate(self, grid)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all."""
        from foreseer.kernel.file import save_kernel

        save_kernel(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Kernel:
        """Read a file that :meth:`save` wrote."""
        from foreseer.kernel.file import load_kernel

        return load_kernel(path)


def _check_branches(branches: Branches | None, grams: np.ndarray) -> None:
    if branches is None:
        return
    prompts, steps, _ = grams.shape
    if branches.steps != steps or len(branches.grams) != prompts:
        raise KernelError(
            f"The branches hold {len(branches.grams)} prompts of {branches.steps} steps; expected {prompts} of {steps}."
        )
    guided = branches.guided @ branches.grams @ branches.guided.T
    if not np.linalg.norm(guided - grams) <= CONSISTENT * np.linalg.norm(grams):
        raise KernelError("The branches' moments, combined, are not those of the guided outputs.")
