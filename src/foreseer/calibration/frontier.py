"""Expected error against network evaluations: what a kernel promises at each budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.errors import ForeseerError
from foreseer.files.writing import write_figure
from foreseer.forecast.kernel import KernelRows
from foreseer.kernel import Kernel
from foreseer.methods.learned import STEER, joint_schedule
from foreseer.methods.validate import expected_error
from foreseer.schedule import Optimal


class FrontierError(ForeseerError, ValueError):
    """A frontier cannot be traced, or not be drawn."""


@dataclass(frozen=True)
class FrontierPoint:
    """The best plan found at one budget.

    Attributes:
        nfe: steps at which the network is evaluated.
        evaluations: calls of the network, of all branches of guidance that the kernel knows.
        speedup: of the number of calls.
        error: expected relative error of the final sample, root mean square over prompts, cross-validated.
        spread: standard error of that mean; ``nan`` for a single prompt.
        worst: the largest over prompts.
        computed_steps: the steps at which any branch computes.
        branch_steps: the computed steps of branches that do not compute at all of them.
        knee: whether beyond this budget each evaluation buys the least less (largest distance from the chord).
    """

    nfe: int
    evaluations: int
    speedup: float
    error: float
    spread: float
    worst: float
    computed_steps: tuple[int, ...]
    branch_steps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    knee: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists; the spread is ``None`` where a single prompt tells none."""
        return {**asdict(self), "spread": None if math.isnan(self.spread) else self.spread}


def trace_frontier(
    kernel: Kernel, most: int, progress: Callable[[], None] = lambda: None, *, by_evaluations: bool = False
) -> list[FrontierPoint]:
    """The best plans with up to ``most`` evaluations on the kernel's grid, kernel rows on searched steps.

    Args:
        kernel: the moments.
        most: the largest budget; the least is 2, or one call of each branch.
        progress: called after each budget.
        by_evaluations: budgets count calls of the network, each branch of guidance at steps of its own, as in
            ``learned(kernel, evaluations=...)``, instead of steps.

    Raises:
        FrontierError: the kernel does not know the size of final samples, or branches that are to be called apart; or
            ``most`` is below the least budget.
    """
    count = branches_of(kernel)
    if not kernel.knows_final_error or most < 2:
        raise FrontierError("A frontier needs 2 evaluations or more, and a kernel of a deterministic scheduler.")
    if by_evaluations and (kernel.branches is None or most < count):
        raise FrontierError(
            "A frontier by calls of the network needs a kernel that knows branches of guidance, and a call of each; "
            f"received {most} calls, and a kernel of {'none' if kernel.branches is None else count}."
        )
    points = []
    for point in _together(kernel, most) if not by_evaluations else _apart(kernel, most):
        points.append(point)
        progress()
    knee = _knee([point.evaluations for point in points], [point.error for point in points])
    points[knee] = replace(points[knee], knee=True)
    return points


def branches_of(kernel: Kernel) -> int:
    """How many branches of guidance a kernel knows, at least 1."""
    return len(kernel.branches.names) if kernel.branches is not None else 1


def _together(kernel: Kernel, most: int) -> Iterator[FrontierPoint]:
    """All branches at the same steps."""
    rows = KernelRows(kernel)
    for nfe in range(2, most + 1):
        yield _point(kernel, Optimal(kernel, nfe, forecaster=rows).on(kernel.grid), {})


def _apart(kernel: Kernel, most: int) -> Iterator[FrontierPoint]:
    """Each branch at steps of its own."""
    for evaluations in range(branches_of(kernel), most + 1):
        schedule = joint_schedule(kernel, evaluations)
        yield _point(kernel, schedule.on(kernel.grid), schedule.branch_steps(kernel.grid), steer=STEER)


def _point(
    kernel: Kernel, computed: tuple[int, ...], branch_steps: Mapping[str, tuple[int, ...]], **steer: float
) -> FrontierPoint:
    error = expected_error(kernel, computed, KernelRows(kernel).ridge, branch_steps=branch_steps, **steer)
    count = branches_of(kernel)
    calls = sum(map(len, branch_steps.values())) + (count - len(branch_steps)) * len(computed)
    speedup = count * len(kernel.grid) / calls
    return FrontierPoint(
        len(computed), calls, speedup, error.mean, error.spread, error.worst, computed, dict(branch_steps)
    )


def draw_frontier(points: list[FrontierPoint], path: Path) -> None:
    """Draw the curve into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=130, layout="constrained")
    axis = figure.subplots()
    apart = any(point.branch_steps for point in points)
    budgets = [point.evaluations if apart else point.nfe for point in points]
    axis.semilogy(budgets, [point.error for point in points], marker="o", markersize=4, label="root mean square")
    axis.semilogy(budgets, [point.worst for point in points], linestyle=":", label="worst prompt")
    for point, budget in zip(points, budgets, strict=True):
        if point.knee:
            axis.annotate(
                f"knee: {budget} {'calls' if apart else 'evaluations'}",
                (budget, point.error),
                xytext=(12, 14),
                textcoords="offset points",
                arrowprops={"arrowstyle": "->"},
            )
    axis.set_xlabel("calls of the network" if apart else "network evaluations")
    axis.set_ylabel("expected relative error of the final sample")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False)
    write_figure(path, figure)


def _knee(budgets: list[int], errors: list[float]) -> int:
    """Where log error lies furthest below the chord between both ends of the curve."""
    heights = np.log(np.maximum(errors, 1e-12))
    along = (np.asarray(budgets) - budgets[0]) / max(1, budgets[-1] - budgets[0])
    chord = heights[0] + along * (heights[-1] - heights[0])
    return int(np.argmax(chord - heights))
