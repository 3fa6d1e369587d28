"""`learned`: a kernel and a budget become a policy."""

from __future__ import annotations

from foreseer.forecast.kernel import KernelRows
from foreseer.kernel import Kernel
from foreseer.plan import Policy
from foreseer.schedule.optimal import Optimal


def learned(
    kernel: Kernel,
    *,
    nfe: int | None = None,
    speedup: float | None = None,
    max_error: float | None = None,
    ridge: float = 1e-6,
) -> Policy:
    """Kernel rows on searched steps, for any run that the kernel covers.

    Args:
        kernel: from :func:`foreseer.calibrate`.
        nfe: network evaluations of a run; or
        speedup: T / NFE; or
        max_error: the expected relative error of the final sample to keep.
        ridge: of the rows, relative to the features' mean square.

    Raises:
        ScheduleError: not exactly one target was given.
    """
    rows = KernelRows(kernel, ridge=ridge)
    return Policy(Optimal(kernel, nfe, speedup, max_error, rows), rows)
