"""`learned`: a kernel and a budget become a policy."""

from __future__ import annotations

from dataclasses import replace

from foreseer.errors import ScheduleError
from foreseer.forecast import Reuse
from foreseer.forecast.kernel import KernelRows
from foreseer.kernel import Kernel
from foreseer.methods.validate import best_ridge, expected_error, formula_error
from foreseer.plan import Policy
from foreseer.schedule.joint import Joint
from foreseer.schedule.optimal import Optimal

SEARCH_RIDGE = 1e-6
STEER = 0.5  # measured: see docs/learning.md
STEERED = 0.5  # of the network's response: rows that steer back leave less error for it to answer (see benchmarks)


def learned(
    kernel: Kernel,
    *,
    nfe: int | None = None,
    evaluations: int | None = None,
    speedup: float | None = None,
    max_error: float | None = None,
    ridge: float | None = None,
) -> Policy:
    """Kernel rows on searched steps, for any run that the kernel covers.

    Where reuse on steps of its own expects less error, it is reuse: under Euler's method, the run with those steps
    alone. So the expected error, cross-validated on the kernel's grid, is never above that of the best step reduction
    to as many of its levels; that matters where there are few steps in all (docs/models/few-steps.md).

    Args:
        kernel: from :func:`foreseer.calibrate`.
        nfe: network evaluations of a run, however many branches each has; or
        evaluations: calls of the network in a run with guidance, all branches together: each branch then computes at
            steps of its own, and its rows steer (:class:`foreseer.forecast.KernelRows`); or
        speedup: T / NFE; or
        max_error: the expected relative error of the final sample to keep.
        ridge: of the rows, relative to the features' mean square; by default the one with the least cross-validated
            error on the steps that were found on the kernel's own grid.

    Raises:
        ScheduleError: not exactly one target was given, or ``evaluations`` for a kernel that knows no branches.
    """
    if evaluations is not None:
        if (nfe, speedup, max_error) != (None, None, None):
            raise ScheduleError("Give one of nfe, evaluations, speedup and max_error.")
        return _joint(kernel, evaluations, ridge)
    schedule = Optimal(kernel, nfe, speedup, max_error, KernelRows(kernel, ridge=ridge or SEARCH_RIDGE))
    if nfe is not None and nfe > len(kernel.grid):  # for finer grids than the kernel's, which cannot be compared on
        return Policy(schedule, KernelRows(kernel, ridge=ridge or SEARCH_RIDGE), kernel.site)
    steps = schedule.on(kernel.grid)
    found = best_ridge(kernel, steps) if ridge is None else expected_error(kernel, steps, ridge)
    plain = Optimal(kernel, nfe, speedup, max_error, Reuse())
    its_steps = plain.on(kernel.grid)
    if (len(its_steps), formula_error(kernel, its_steps, Reuse()).mean) < (len(steps), found.mean):
        return Policy(plain, Reuse(), kernel.site)
    return Policy(schedule, KernelRows(kernel, ridge=found.ridge), kernel.site)


def joint_schedule(kernel: Kernel, evaluations: int) -> Joint:
    """Each branch's steps for a budget in calls of the network, searched for rows that steer.

    Raises:
        ScheduleError: the kernel knows no branches, or there are fewer evaluations than branches.
    """
    return Joint(replace(kernel, response=STEERED * kernel.response), evaluations)


def _joint(kernel: Kernel, evaluations: int, ridge: float | None) -> Policy:
    schedule = joint_schedule(kernel, evaluations)
    if ridge is None:
        fits = evaluations <= len(kernel.grid)
        apart = {"branch_steps": schedule.branch_steps(kernel.grid), "steer": STEER} if fits else {}
        ridge = best_ridge(kernel, schedule.on(kernel.grid), **apart).ridge if fits else SEARCH_RIDGE
    return Policy(schedule, KernelRows(kernel, ridge=ridge, steer=STEER), kernel.site)
