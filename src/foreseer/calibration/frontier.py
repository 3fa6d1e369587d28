"""Expected error against network evaluations: what a kernel promises at each budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.calibration.validate import expected_error
from foreseer.errors import ForeseerError
from foreseer.forecast.kernel import KernelRows
from foreseer.kernel import Kernel
from foreseer.schedule import Optimal


class FrontierError(ForeseerError, ValueError):
    """A frontier cannot be traced, or not be drawn."""


@dataclass(frozen=True)
class FrontierPoint:
    """The best plan found at one budget.

    Attributes:
        nfe: network evaluations.
        speedup: T / NFE.
        error: expected relative error of the final sample, root mean square over prompts, cross-validated.
        spread: standard error of that mean.
        worst: the largest over prompts.
        computed_steps: the steps that compute.
        knee: whether beyond this budget each evaluation buys the least less (largest distance from the chord).
    """

    nfe: int
    speedup: float
    error: float
    spread: float
    worst: float
    computed_steps: tuple[int, ...]
    knee: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists."""
        return asdict(self)


def trace_frontier(kernel: Kernel, most: int, progress: Callable[[], None] = lambda: None) -> list[FrontierPoint]:
    """The best plans with 2 to ``most`` evaluations on the kernel's grid, kernel rows on searched steps.

    Raises:
        FrontierError: the kernel does not know the size of final samples, or ``most`` is below 2.
    """
    if not kernel.knows_final_error or most < 2:
        raise FrontierError("A frontier needs 2 evaluations or more, and a kernel of a deterministic scheduler.")
    rows = KernelRows(kernel)
    points = []
    for nfe in range(2, most + 1):
        computed = Optimal(kernel, nfe, forecaster=rows).on(kernel.grid)
        error = expected_error(kernel, computed, rows.ridge)
        points.append(FrontierPoint(nfe, len(kernel.grid) / nfe, error.mean, error.spread, error.worst, computed))
        progress()
    knee = _knee([point.nfe for point in points], [point.error for point in points])
    points[knee] = FrontierPoint(**{**asdict(points[knee]), "knee": True})
    return points


def draw_frontier(points: list[FrontierPoint], path: Path) -> None:
    """Draw the curve into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=130, layout="constrained")
    axis = figure.subplots()
    nfe = [point.nfe for point in points]
    axis.semilogy(nfe, [point.error for point in points], marker="o", markersize=4, label="root mean square")
    axis.semilogy(nfe, [point.worst for point in points], linestyle=":", label="worst prompt")
    for point in points:
        if point.knee:
            axis.annotate(
                f"knee: {point.nfe} evaluations",
                (point.nfe, point.error),
                xytext=(12, 14),
                textcoords="offset points",
                arrowprops={"arrowstyle": "->"},
            )
    axis.set_xlabel("network evaluations")
    axis.set_ylabel("expected relative error of the final sample")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False)
    figure.savefig(path)


def _knee(budgets: list[int], errors: list[float]) -> int:
    """Where log error lies furthest below the chord between both ends of the curve."""
    heights = np.log(np.maximum(errors, 1e-12))
    along = (np.asarray(budgets) - budgets[0]) / max(1, budgets[-1] - budgets[0])
    chord = heights[0] + along * (heights[-1] - heights[0])
    return int(np.argmax(chord - heights))
