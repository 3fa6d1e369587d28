"""A kernel between its noise levels: positive semi-definite, and unsure of what no level near it tells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from foreseer.grid import Grid
from foreseer.kernel.between import Between, LevelError
from foreseer.kernel.kernel import Kernel, KernelError


def interpolate(kernel: Kernel, grid: Grid) -> Kernel:
    """``kernel`` on ``grid``, by local cubic interpolation of the features along the noise level.

    What a level has that its neighbours do not tell is counted as unknown (:class:`foreseer.kernel.between.Between`):
    the coarser the recorded grid, the larger the errors that are expected on a finer one.
    The sampler matrix belongs to the recorded grid and is left out. The outputs' effects are carried over as a density
    along the noise level, exactly for Euler's method and approximately for others.

    Raises:
        KernelError: the grid is in another unit, or reaches further than one recorded spacing beyond the levels.
    """
    if grid.unit != kernel.grid.unit:
        raise KernelError(f"The kernel's levels are in {kernel.grid.unit}, the run's in {grid.unit}: calibrate there.")
    try:
        between = Between.levels(kernel.grid.levels, grid.levels, kernel.pooled)
    except LevelError as error:
        raise KernelError(str(error)) from None
    known, wanted = _lengths(kernel.grid), _lengths(grid)
    density = np.divide(kernel.output_effects, known, out=np.zeros_like(known), where=known > 0)
    effects = np.interp(-grid.levels, -kernel.grid.levels, density) * wanted
    outputs = kernel.output_squares
    if outputs is not None:
        outputs = np.stack([np.interp(-grid.levels, -kernel.grid.levels, squares) for squares in outputs])
    return replace(
        kernel,
        grid=grid,
        grams=between.of(kernel.grams),
        sampler=None,
        effects=effects,
        branches=None if kernel.branches is None else kernel.branches.interpolated(between),
        output_squares=outputs,
        parts=None if kernel.parts is None else kernel.parts.interpolated(between),
    )


def _lengths(grid: Grid) -> np.ndarray:
    """The lengths of a grid's steps in noise level."""
    return -np.diff(np.append(grid.levels, grid.final_level))


def resampled(grid: Grid, steps: int) -> Grid:
    """``steps`` levels spread over ``grid`` as its own are: its levels as a function of step / T, read at i / steps."""
    at = np.arange(len(grid) + 1) / len(grid)
    levels = np.interp(np.arange(steps) / steps, at, np.append(grid.levels, grid.final_level))
    return Grid(levels, grid.unit, grid.final_level)
