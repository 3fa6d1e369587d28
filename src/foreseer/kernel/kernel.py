"""The kernel: second moments of features over the grid, sufficient for every linear predictor."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.checks import check_kind, check_number, check_provenance, frozen
from foreseer.errors import KernelError
from foreseer.grid import Grid
from foreseer.kernel.branches import Branches
from foreseer.kernel.interpolate import interpolate
from foreseer.kernel.kernel_file import load_kernel, save_kernel
from foreseer.kernel.merge import merge
from foreseer.kernel.moments import problem_of
from foreseer.kernel.noise import with_noise
from foreseer.kernel.parts import Parts
from foreseer.site import read_site

CONSISTENT = 0.2  # relative; guidance in half precision rounds
SENSITIVITY = 12.0  # where it was not measured; the bundled pipelines had 12 and 14
DRIFT = 1.0  # where it was not measured; the bundled pipeline had 3 at its default guidance, 1 with two passes


@dataclass(frozen=True, eq=False, repr=False)
class Kernel:
    r"""Second moments of features, $G_{ij} = \langle F_i, F_j \rangle / \dim F$, one matrix per prompt.

    Args:
        grid: the T noise levels at which features were recorded.
        grams: shape (P, T, T), float64, symmetric; P prompts.
        sampler: sampler matrix of the recorded runs, shape (T + 1, T + 1); ``None`` for a stochastic scheduler.
        final_squares: mean square of each prompt's final sample, shape (P,); ``None`` if unknown.
        site: where in the network features were taken.
        sensitivity: how strongly the network responds to an error of the sample, at least 0; see :meth:`propagation`.
        drift: how far the features of runs with forecasts lie from recorded ones, as a mean square relative to theirs,
            over the squared expected error of the final sample; at least 0. The ridge of kernel rows counts it.
        effects: effect of an error in each step's output on the final sample, shape (T,), for a kernel without sampler
            matrix; not saved to files.
        branches: moments of single branches; ``grams`` are then those of their combination under guidance.
        output_squares: mean squares of the network's outputs, shape (P, T), if features are of another site.
        parts: moments of single parts of the network, if a feature has several; ``grams`` are then their
            :func:`foreseer.kernel.parts.balanced` mean. Or moments of the further tensors of a feature that has several
            (``parts.are_tensors``: video and sound); ``grams`` are then those of the first.
        provenance: strings saved with the file: model, scheduler, guidance, hash of the prompts, versions.

    Raises:
        KernelError: a shape or value is invalid.
        PlanError: the site is unknown.
    """

    grid: Grid
    grams: Float64[np.ndarray, "P T T"] = field(repr=False)
    sampler: Float64[np.ndarray, "T1 T1"] | None = field(default=None, repr=False)
    final_squares: Float64[np.ndarray, " P"] | None = field(default=None, repr=False)
    site: str = "output"
    provenance: Mapping[str, str] = field(default_factory=dict)
    sensitivity: float = SENSITIVITY
    effects: Float64[np.ndarray, " T"] | None = field(default=None, repr=False)
    branches: Branches | None = field(default=None, repr=False)
    output_squares: Float64[np.ndarray, "P T"] | None = field(default=None, repr=False)
    parts: Parts | None = field(default=None, repr=False)
    drift: float = DRIFT
    _interpolated: dict[bytes, Kernel] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        steps = len(self.grid)
        grams = frozen(self.grams)
        if grams.ndim != 3 or grams.shape[0] < 1 or grams.shape[1:] != (steps, steps):
            raise KernelError(f"The Grams have shape {grams.shape}; expected (prompts, {steps}, {steps}).")
        problem = problem_of(grams)
        if problem is not None:
            raise KernelError(problem)
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
        object.__setattr__(self, "site", str(read_site(self.site)))
        check_number("sensitivity", self.sensitivity, KernelError)
        check_number("drift", self.drift, KernelError)
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
        object.__setattr__(self, "provenance", MappingProxyType(check_provenance(self.provenance, KernelError)))

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self.grid,
            self.grams,
            self.sampler,
            self.final_squares,
            self.site,
            dict(self.provenance),
            self.sensitivity,
            self.effects,
            self.branches,
            self.output_squares,
            self.parts,
            self.drift,
        )
        return Kernel, fields

    def __repr__(self) -> str:
        return f"<kernel of {self.prompts} prompts on {len(self.grid)} steps, {self.provenance.get('model', '?')}>"

    @property
    def prompts(self) -> int:
        """Number of recorded prompts P."""
        return int(self.grams.shape[0])

    @cached_property
    def pooled(self) -> Float64[np.ndarray, "T T"]:
        """Mean over prompts, shape (T, T)."""
        mean = self.grams.mean(axis=0)
        mean.setflags(write=False)
        return mean

    @cached_property
    def final_weights(self) -> Float64[np.ndarray, " T"]:
        """Signed effect of an error in each step's feature on the final sample, shape (T,).

        At sites other than the output, a relative error of the feature is assumed to be the same relative error of the
        output.
        """
        if self.output_squares is None:
            return self.output_effects
        features = np.maximum(np.diag(self.pooled), np.finfo(np.float64).tiny)
        return self.output_effects * np.sqrt(self.output_squares.mean(axis=0) / features)

    @cached_property
    def output_effects(self) -> Float64[np.ndarray, " T"]:
        """Signed effect of an error in each step's output on the final sample, shape (T,).

        The last row of the sampler matrix; without one, the lengths of the steps in noise level, which is exact for
        Euler's method.
        """
        if self.sampler is not None:
            return self.sampler[-1, 1:]
        if self.effects is not None:
            return self.effects
        return self.grid.lengths

    @cached_property
    def remaining(self) -> Float64[np.ndarray, " T1"]:
        """Remaining share of the run, shape (T + 1,): from 1 before step 0 to 0 at the end."""
        lengths = np.abs(self.output_effects)
        return np.append(np.cumsum(lengths[::-1])[::-1], 0.0) / max(float(lengths.sum()), np.finfo(np.float64).tiny)

    def propagation(self, step: int, until: int | np.ndarray) -> np.ndarray:
        r"""Return the factor from the squared error at ``step`` to the squared final error via the network.

        $a^2 \tau_s^4 (\tau_s - \tau_{until})$, with $\tau$ the remaining share of the run and a the kernel's
        sensitivity. The network evaluates a perturbed sample at computed step s, and its output is used until the next
        computed step. Early errors change the picture, late ones do not. (Fitted to measurements, not
        derived.)
        """
        left = self.remaining
        return np.asarray(self.sensitivity**2 * left[step] ** 4 * (left[step] - left[until]))

    @property
    def is_balanced(self) -> bool:
        """Whether ``grams`` are a mean over parts of the network, and so not the moments of one feature."""
        return self.parts is not None and not self.parts.are_tensors

    @property
    def has_final_error(self) -> bool:
        """Whether the expected error of the final sample can be computed: not for a stochastic scheduler."""
        return self.final_squares is not None and (self.sampler is not None or self.effects is not None)

    def merge(self, other: Kernel, *, allow_overlap: bool = False, ignore_fields: Collection[str] = ()) -> Kernel:
        """Combine the prompts of both kernels.

        Args:
            other: the kernel to add.
            allow_overlap: whether both may contain the same run; it then counts twice.
            ignore_fields: keys of ``provenance`` (``"options"``, ``"dtype"``, ...) that may differ.

        Raises:
            KernelError: grid, site, sampler, model or settings differ, a run occurs in both without ``allow_overlap``,
                or ``ignore_fields`` holds an unknown key.
        """
        check_kind("other", other, Kernel, KernelError)
        return merge(self, other, allow_overlap=allow_overlap, ignore_fields=ignore_fields)

    def with_noise(self, noise: float) -> Kernel:
        r"""Count noise that each forward pass adds to the outputs: $G_{ii}$ becomes $(1 + \sigma^2) G_{ii}$.

        Rounding of activations to 8 bits differs from step to step, so it is uncorrelated between steps and adds to the
        diagonal alone. The ridge, the search and the expected errors then count it: rows have smaller L2 gains. Use it
        for a kernel recorded on an unquantised network; a kernel recorded on the quantised one holds the noise already.

        >>> import foreseer as fs
        >>> kernel = fs.Kernel.load(fs.zoo.kernel_path())
        >>> round(float(kernel.with_noise(0.01).pooled[0, 0] / kernel.pooled[0, 0]), 6)
        1.0001
        >>> policy = fs.learned(kernel.with_noise(0.01), nfe=9)

        Args:
            noise: sigma, root mean square of the noise relative to that of the output; at least 0.

        Raises:
            KernelError: ``noise`` is negative or not finite.
        """
        return with_noise(self, noise)

    def subset(self, prompts: list[int]) -> Kernel:
        """Select prompts by index; ``parts``, which are means over all prompts, are dropped."""
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
        """Interpolate to another grid (cached); see :func:`foreseer.kernel.interpolate.interpolate`.

        Raises:
            KernelError: the grid extends beyond the recorded noise levels, is in another unit, or is not a ``Grid``.
        """
        check_kind("grid", grid, Grid, KernelError)
        if grid.matches(self.grid):
            return self
        if grid.key not in self._interpolated:
            self._interpolated[grid.key] = interpolate(self, grid)
        return self._interpolated[grid.key]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file atomically."""
        save_kernel(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Kernel:
        """Read a file written by :meth:`save`."""
        return load_kernel(path, cls)


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
        raise KernelError("The branches' moments, combined by their coefficients, differ from the guided outputs'.")
