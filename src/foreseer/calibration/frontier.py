"""Expected error against budget: the best plan that a kernel offers at each budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.errors import ForeseerError
from foreseer.files.writing import write_figure
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.kernel import Kernel
from foreseer.methods.learned import joint_schedule, rows_with_feedback, schedule_with_feedback
from foreseer.methods.validate import expected_error


class FrontierError(ForeseerError, ValueError):
    """A frontier cannot be computed for this kernel or budget."""


@dataclass(frozen=True)
class FrontierPoint:
    """The best plan found at one budget.

    Attributes:
        nfe: number of computed steps.
        forward_passes: calls of the network, summed over the kernel's branches of guidance.
        speedup: ratio of the forward passes of a full run to ``forward_passes``.
        error: expected relative error of the final sample, root mean square over prompts, cross-validated.
        spread: standard error of that mean; ``nan`` for a single prompt.
        worst: largest error over prompts.
        computed_steps: the steps at which any branch computes.
        branch_steps: the computed steps of each branch that skips some of ``computed_steps``.
        knee: whether the curve bends most here (largest distance below its chord).
    """

    nfe: int
    forward_passes: int
    speedup: float
    error: float
    spread: float
    worst: float
    computed_steps: tuple[int, ...]
    branch_steps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    knee: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists; the spread is ``None`` for a single prompt."""
        return {**asdict(self), "spread": None if math.isnan(self.spread) else self.spread}


def trace_frontier(
    kernel: Kernel, most: int, progress: Callable[[], None] = lambda: None, *, by_forward_passes: bool = False
) -> list[FrontierPoint]:
    """Return the best plan per budget on the kernel's grid, with kernel rows on searched steps.

    Args:
        kernel: second moments.
        most: largest budget; the smallest is 2 steps, or one forward pass per branch.
        progress: called after each budget.
        by_forward_passes: whether budgets count forward passes, with separate computed steps per branch as in
            ``learned(kernel, forward_passes=...)``, instead of steps.

    Raises:
        FrontierError: the kernel has no final error, or no branches with ``by_forward_passes``; or ``most`` is below
            the smallest budget.
    """
    count = branches_of(kernel)
    if not kernel.has_final_error or most < 2:
        raise FrontierError(
            f"A frontier needs a budget of at least 2 (received {most}) and a kernel of a deterministic scheduler."
        )
    if by_forward_passes and (kernel.branches is None or most < count):
        raise FrontierError(
            "A frontier by forward passes needs a kernel with branches of guidance, and at least one pass per branch; "
            f"received {most} passes and a kernel with {'no' if kernel.branches is None else count} branches."
        )
    points = []
    for point in _by_forward_passes(kernel, most) if by_forward_passes else _by_steps(kernel, most):
        points.append(point)
        progress()
    knee = _knee([point.forward_passes for point in points], [point.error for point in points])
    points[knee] = replace(points[knee], knee=True)
    return points


def branches_of(kernel: Kernel) -> int:
    """Return the number of branches of guidance in a kernel, at least 1."""
    return len(kernel.branches.names) if kernel.branches is not None else 1


def _by_steps(kernel: Kernel, most: int) -> Iterator[FrontierPoint]:
    """Yield plans with all branches at the same steps."""
    rows = rows_with_feedback(kernel)
    for nfe in range(2, most + 1):
        yield _point(kernel, schedule_with_feedback(kernel, nfe=nfe).on(kernel.grid), {}, rows)


def _by_forward_passes(kernel: Kernel, most: int) -> Iterator[FrontierPoint]:
    """Yield plans with separate computed steps per branch."""
    rows = rows_with_feedback(kernel)
    for forward_passes in range(branches_of(kernel), most + 1):
        schedule = joint_schedule(kernel, forward_passes)
        yield _point(kernel, schedule.on(kernel.grid), schedule.branch_steps(kernel.grid), rows)


def _point(
    kernel: Kernel, computed: tuple[int, ...], branch_steps: Mapping[str, tuple[int, ...]], rows: KernelRows
) -> FrontierPoint:
    error = expected_error(kernel, computed, rows.ridge, branch_steps=branch_steps, feedback_gain=rows.feedback_gain)
    count = branches_of(kernel)
    calls = sum(map(len, branch_steps.values())) + (count - len(branch_steps)) * len(computed)
    speedup = count * len(kernel.grid) / calls
    return FrontierPoint(
        len(computed), calls, speedup, error.mean, error.spread, error.worst, computed, dict(branch_steps)
    )


def draw_frontier(points: list[FrontierPoint], path: Path) -> None:
    """Plot the frontier into an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=130, layout="constrained")
    axis = figure.subplots()
    separate = any(point.branch_steps for point in points)
    unit = "forward passes" if separate else "computed steps (NFE)"
    budgets = [point.forward_passes if separate else point.nfe for point in points]
    axis.semilogy(budgets, [point.error for point in points], marker="o", markersize=4, label="root mean square")
    axis.semilogy(budgets, [point.worst for point in points], linestyle=":", label="worst prompt")
    for point, budget in zip(points, budgets, strict=True):
        if point.knee:
            axis.annotate(
                f"knee: {budget} {unit}",
                (budget, point.error),
                xytext=(12, 14),
                textcoords="offset points",
                arrowprops={"arrowstyle": "->"},
            )
    axis.set_xlabel(unit)
    axis.set_ylabel("expected relative error of the final sample")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False)
    write_figure(path, figure)


def _knee(budgets: list[int], errors: list[float]) -> int:
    """Return the index at which log error lies furthest below the chord between both ends of the curve."""
    heights = np.log(np.maximum(errors, 1e-12))
    fraction = (np.asarray(budgets) - budgets[0]) / max(1, budgets[-1] - budgets[0])
    chord = heights[0] + fraction * (heights[-1] - heights[0])
    return int(np.argmax(chord - heights))
