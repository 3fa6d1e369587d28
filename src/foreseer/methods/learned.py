"""`learned`: a policy from a kernel and a budget."""

from __future__ import annotations

import itertools
from dataclasses import replace

from foreseer.checks import check_kind, check_target, one_target
from foreseer.errors import ScheduleError
from foreseer.forecast import Forecaster, Reuse
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.kernel import Kernel
from foreseer.methods.validate import ExpectedError, best_ridge, expected_error, formula_error
from foreseer.plan import Policy
from foreseer.schedule import Schedule
from foreseer.schedule.joint import Joint
from foreseer.schedule.optimal import Optimal

SEARCH_RIDGE = 1e-6
FEEDBACK_GAIN = 0.5  # measured: see docs/learning.md
# Factors on the sensitivity in a search: it is fitted to mean squares, which a few runs that leave their reference
# decide. Kernel rows are searched with the first; a rollout measures with which its steps are best.
SENSITIVITY_SHARES = (0.25, 0.0, 0.5, 1.0)


def learned(
    kernel: Kernel,
    *,
    nfe: int | None = None,
    forward_passes: int | None = None,
    speedup: float | None = None,
    max_error: float | None = None,
    ridge: float | None = None,
) -> Policy:
    """Return a policy of kernel rows on searched steps, for any grid within the kernel's noise levels.

    The rows have error feedback (:class:`foreseer.forecast.KernelRows`), if the kernel has a final error to feed back.
    If reuse on its best steps has a smaller expected error than these rows on any set of steps that was searched for
    them, the policy is reuse; under Euler's method this equals sampling at those steps only, which matters for few
    steps (docs/models/few-steps.md).

    Args:
        kernel: from :func:`foreseer.calibrate`.
        nfe: computed steps of a run; each may need several forward passes under guidance; or
        forward_passes: calls of the network in a run with guidance, summed over branches; branches then have separate
            computed steps; or
        speedup: T / NFE; or
        max_error: expected relative error of the final sample to keep.
        ridge: ridge of the rows, relative to the features' mean square; by default the one with the least
            cross-validated error on the steps found on the kernel's grid, at least what the kernel's drift asks for.

    Raises:
        ScheduleError: not exactly one target was given, or ``forward_passes`` for a kernel without branches.
    """
    targets = {"nfe": nfe, "forward_passes": forward_passes, "speedup": speedup, "max_error": max_error}
    check_kind("kernel", kernel, Kernel, ScheduleError)
    check_target(one_target(ScheduleError, targets, required=True), ScheduleError)
    if forward_passes is not None:
        return _joint(kernel, forward_passes, ridge)
    rows = rows_with_feedback(kernel, ridge)
    schedule = schedule_with_feedback(kernel, nfe=nfe, speedup=speedup, max_error=max_error)
    if nfe is not None and nfe > len(kernel.grid):  # for finer grids only: no comparison on the kernel's grid
        return Policy(schedule, rows, kernel.site)
    reuse = Optimal(kernel, nfe, speedup, max_error, Reuse())
    reuse_steps = reuse.on(kernel.grid)
    reused = len(reuse_steps), formula_error(kernel, reuse_steps, Reuse()).mean
    target = {"nfe": nfe, "speedup": speedup, "max_error": max_error}
    others = (schedule_with_feedback(kernel, **target, share=share) for share in SENSITIVITY_SHARES[1:])
    for each in itertools.chain([schedule], others):  # both methods by what they expect on steps that suit them
        expected = rows_error(kernel, each, ridge)
        if reused < (len(each.on(kernel.grid)), expected.mean):
            continue
        if each is schedule or max_error is not None:  # an error is kept as it is expected
            return Policy(each, replace(rows, ridge=expected.ridge), kernel.site)
        return Policy(schedule, replace(rows, ridge=rows_error(kernel, schedule, ridge).ridge), kernel.site)
    return Policy(reuse, Reuse(), kernel.site)


def rows_error(kernel: Kernel, schedule: Schedule, ridge: float | None = None) -> ExpectedError:
    """Return the expected error on these steps, by default with the best ridge."""
    steps, gain = schedule.on(kernel.grid), rows_with_feedback(kernel).feedback_gain
    if ridge is None:
        return best_ridge(kernel, steps, feedback_gain=gain)
    return expected_error(kernel, steps, ridge, feedback_gain=gain)


def rows_on(kernel: Kernel, schedule: Schedule) -> Policy:
    """Return the policy of rows with error feedback and the best ridge on these steps."""
    return Policy(schedule, rows_with_feedback(kernel, rows_error(kernel, schedule).ridge), kernel.site)


def rows_with_feedback(kernel: Kernel, ridge: float | None = None) -> KernelRows:
    """Return kernel rows with error feedback; without it if the kernel has no final error, or is of parts."""
    gain = FEEDBACK_GAIN if kernel.has_final_error and not kernel.is_balanced else 0.0
    return KernelRows(kernel, ridge=SEARCH_RIDGE if ridge is None else ridge, feedback_gain=gain)


def schedule_with_feedback(
    kernel: Kernel,
    *,
    nfe: int | None = None,
    speedup: float | None = None,
    max_error: float | None = None,
    share: float = SENSITIVITY_SHARES[0],
    feedback_gain: float = FEEDBACK_GAIN,
) -> Optimal:
    """Return the schedule searched for rows with error feedback; targets as of :class:`Optimal`."""
    rows = rows_with_feedback(kernel)
    if rows.feedback_gain:
        rows = replace(rows, feedback_gain=feedback_gain)
    return Optimal(search_kernel(kernel, rows, share), nfe, speedup, max_error, rows)


def search_kernel(kernel: Kernel, rows: Forecaster, share: float = SENSITIVITY_SHARES[0]) -> Kernel:
    """Return the kernel to search steps on: less sensitive if ``rows`` have error feedback."""
    if not (isinstance(rows, KernelRows) and rows.feedback_gain):
        return kernel
    return replace(kernel, sensitivity=share * kernel.sensitivity)


def joint_schedule(kernel: Kernel, forward_passes: int, share: float = SENSITIVITY_SHARES[0]) -> Joint:
    """Return the schedule with separate steps per branch, searched for rows with error feedback.

    Raises:
        ScheduleError: the kernel has no branches, or further tensors (whose rows are for equal steps), or there are
            fewer forward passes than branches.
    """
    if kernel.parts is not None and kernel.parts.are_tensors:
        raise ScheduleError(
            "This network returns several tensors (video and sound), so its branches compute at the same steps: give "
            "nfe instead of forward_passes."
        )
    return Joint(replace(kernel, sensitivity=share * kernel.sensitivity), forward_passes)


def schedule_of_branches(kernel: Kernel, forward_passes: int, share: float, feedback_gain: float) -> Optimal | Joint:
    """Return steps for each branch; where all have the same ones, those of :func:`schedule_with_feedback`."""
    joint = joint_schedule(kernel, forward_passes, share)
    if joint.branch_steps(kernel.grid):
        return joint
    return schedule_with_feedback(kernel, nfe=len(joint.on(kernel.grid)), share=share, feedback_gain=feedback_gain)


def searches_with_feedback(
    kernel: Kernel, *, nfe: int | None = None, forward_passes: int | None = None
) -> list[Optimal | Joint]:
    """Return a schedule for each set of steps found with one of `SENSITIVITY_SHARES`."""
    gain, grid = 1.0, kernel.grid  # a rollout corrects all that it can
    rules = [
        schedule_with_feedback(kernel, nfe=nfe, share=share, feedback_gain=gain)
        if forward_passes is None
        else schedule_of_branches(kernel, forward_passes, share, gain)
        for share in SENSITIVITY_SHARES
    ]
    return list({(rule.on(grid), repr(rule.branch_steps(grid))): rule for rule in reversed(rules)}.values())


def _joint(kernel: Kernel, forward_passes: int, ridge: float | None) -> Policy:
    rows = KernelRows(kernel, ridge=SEARCH_RIDGE if ridge is None else ridge, feedback_gain=FEEDBACK_GAIN)
    if forward_passes > len(kernel.grid):  # perhaps for finer grids only: no search on the kernel's grid
        return Policy(joint_schedule(kernel, forward_passes), rows, kernel.site)
    schedule = schedule_of_branches(kernel, forward_passes, SENSITIVITY_SHARES[0], FEEDBACK_GAIN)
    if ridge is None:
        options = {"branch_steps": schedule.branch_steps(kernel.grid), "feedback_gain": FEEDBACK_GAIN}
        rows = replace(rows, ridge=best_ridge(kernel, schedule.on(kernel.grid), **options).ridge)
    return Policy(schedule, rows, kernel.site)
