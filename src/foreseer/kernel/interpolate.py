"""A kernel between its noise levels: A G A^T, which stays positive semi-definite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from foreseer.grid import Grid
from foreseer.kernel.kernel import Kernel, KernelError

POINTS = 4  # cubic: the features are smooth along the trajectory
REACH = 1.0  # how far beyond the recorded levels, in units of the recorded spacing there


def interpolate(kernel: Kernel, grid: Grid) -> Kernel:
    """``kernel`` on ``grid``, by local cubic interpolation of the features along the noise level.

    The sampler matrix belongs to the recorded grid and is left out. The outputs' effects are carried over as a density
    along the noise level, exactly for Euler's method and approximately for others.

    Raises:
        KernelError: the grid is in another unit, or reaches further than one recorded spacing beyond the levels.
    """
    if grid.unit != kernel.grid.unit:
        raise KernelError(f"The kernel's levels are in {kernel.grid.unit}, the run's in {grid.unit}: calibrate there.")
    weights = interpolation_weights(kernel.grid.levels, grid.levels)
    known, wanted = _lengths(kernel.grid), _lengths(grid)
    density = np.divide(kernel.output_effects, known, out=np.zeros_like(known), where=known > 0)
    effects = np.interp(-grid.levels, -kernel.grid.levels, density) * wanted
    outputs = kernel.output_squares
    if outputs is not None:
        outputs = np.stack([np.interp(-grid.levels, -kernel.grid.levels, squares) for squares in outputs])
    return replace(
        kernel,
        grid=grid,
        grams=weights @ kernel.grams @ weights.T,
        sampler=None,
        effects=effects,
        branches=None if kernel.branches is None else kernel.branches.interpolated(weights),
        output_squares=outputs,
        parts=None if kernel.parts is None else kernel.parts.interpolated(weights),
    )


def _lengths(grid: Grid) -> np.ndarray:
    """The lengths of a grid's steps in noise level."""
    return -np.diff(np.append(grid.levels, grid.final_level))


def interpolation_weights(known: Float64[np.ndarray, " T"], wanted: Float64[np.ndarray, " N"]) -> np.ndarray:
    """A of shape (N, T): the Lagrange weights of the nearest ``POINTS`` known levels.

    Raises:
        KernelError: a wanted level is out of reach.
    """
    count = min(POINTS, known.size)
    top = known[0] + REACH * (known[0] - known[1] if known.size > 1 else 0.0)
    bottom = known[-1] - REACH * (known[-2] - known[-1] if known.size > 1 else 0.0)
    slack = 1e-9 * abs(known[0])
    beyond = [float(level) for level in wanted if level > top + slack or level < bottom - slack]
    if beyond:
        raise KernelError(
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


def resampled(grid: Grid, steps: int) -> Grid:
    """``steps`` levels spread over ``grid`` as its own are: its levels as a function of step / T, read at i / steps."""
    at = np.arange(len(grid) + 1) / len(grid)
    levels = np.interp(np.arange(steps) / steps, at, np.append(grid.levels, grid.final_level))
    return Grid(levels, grid.unit, grid.final_level)
