"""`learned`: a kernel and a budget become a policy."""

from __future__ import annotations

from foreseer.calibration.validate import best_ridge
from foreseer.forecast.kernel import KernelRows
from foreseer.kernel import Kernel
from foreseer.plan import Policy
from foreseer.schedule.optimal import Optimal

SEARCH_RIDGE = 1e-6


def learned(
    kernel: Kernel,
    *,
    nfe: int | None = None,
    speedup: float | None = None,
    max_error: float | None = None,
    ridge: float | None = None,
) -> Policy:
    """Kernel rows on searched steps, for any run that the kernel covers.

    Args:
        kernel: from :func:`foreseer.calibrate`.
        nfe: network evaluations of a run; or
        speedup: T / NFE; or
        max_error: the expected relative error of the final sample to keep.
        ridge: of the rows, relative to the features' mean square; by default the one with the least cross-validated
            error on the steps that were found on the kernel's own grid.

    Raises:
        ScheduleError: not exactly one target was given.
    """
    schedule = Optimal(kernel, nfe, speedup, max_error, KernelRows(kernel, ridge=ridge or SEARCH_RIDGE))
    if ridge is None:
        fits = nfe is None or nfe <= len(kernel.grid)
        ridge = best_ridge(kernel, schedule.on(kernel.grid)).ridge if fits else SEARCH_RIDGE
    return Policy(schedule, KernelRows(kernel, ridge=ridge), kernel.site)
