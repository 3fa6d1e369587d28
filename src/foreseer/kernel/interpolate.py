"""Interpolation of a kernel to another grid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foreseer.errors import GridError, KernelError
from foreseer.grid import Grid
from foreseer.kernel.level_interpolation import LevelError, LevelInterpolation

if TYPE_CHECKING:
    from foreseer.kernel.kernel import Kernel


def interpolate(kernel: Kernel, grid: Grid) -> Kernel:
    """Interpolate ``kernel`` to ``grid``, with features locally cubic in the noise level.

    The moments stay positive semi-definite. The interpolation error is part of them (:class:`.LevelInterpolation`), so
    a coarser recorded grid gives larger expected errors on a finer one. The sampler matrix belongs to the recorded grid
    and is dropped; the effects of outputs on the final sample are interpolated as a density along the noise level,
    which is exact for Euler's method and approximate for others.

    Raises:
        KernelError: the grid is in another unit, or extends more than one recorded spacing beyond the levels.
    """
    if grid.unit != kernel.grid.unit:
        raise KernelError(f"The kernel's levels are in {kernel.grid.unit}, the run's in {grid.unit}: calibrate there.")
    try:
        interpolation = LevelInterpolation.grids(kernel.grid, grid, kernel.pooled)
    except LevelError as error:
        raise KernelError(str(error)) from None
    known, wanted = kernel.grid.lengths, grid.lengths
    density = np.divide(kernel.output_effects, known, out=np.zeros_like(known), where=known > 0)
    effects = _by_visit(kernel.grid, grid, density) * wanted
    outputs = kernel.output_squares
    if outputs is not None:
        outputs = np.stack([_by_visit(kernel.grid, grid, squares) for squares in outputs])
    return replace(
        kernel,
        grid=grid,
        grams=interpolation.of(kernel.grams),
        sampler=None,
        effects=effects,
        branches=None if kernel.branches is None else kernel.branches.interpolated(interpolation),
        output_squares=outputs,
        parts=None if kernel.parts is None else kernel.parts.interpolated(interpolation),
    )


def _by_visit(known: Grid, wanted: Grid, values: np.ndarray) -> np.ndarray:
    """Interpolate a value per step linearly along the noise level, each visit of the levels by itself."""
    visits, result = np.array(known.visits), np.empty(len(wanted))
    for visit in set(wanted.visits):
        steps, rows = visits == min(visit, visits.max()), np.array(wanted.visits) == visit
        result[rows] = np.interp(-wanted.levels[rows], -known.levels[steps], values[steps])
    return result


def resampled(grid: Grid, steps: int) -> Grid:
    """Resample ``grid`` to ``steps`` levels: its levels as a function of step / T, evaluated at i / steps.

    Raises:
        GridError: the grid visits a level more than once, so that the visits of another step count are unknown.
    """
    if grid.repeats:
        raise GridError("This kernel's scheduler visits noise levels more than once: its plans are for its own steps.")
    at = np.arange(len(grid) + 1) / len(grid)
    levels = np.interp(np.arange(steps) / steps, at, np.append(grid.levels, grid.final_level))
    return Grid(levels, grid.unit, grid.final_level)
