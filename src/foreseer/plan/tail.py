"""The part of a plan from one of its steps on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foreseer.checks import check_count
from foreseer.errors import PlanError
from foreseer.plan.mixing import START, ChannelMixing

if TYPE_CHECKING:
    from foreseer.plan.plan import Plan


def tail_of(plan: Plan, first_step: int) -> Plan:
    """Return the plan of the steps from ``first_step`` on.

    Raises:
        PlanError: a branch does not compute ``first_step``, or a later step needs the features of earlier ones.
    """
    check_count("first_step", first_step, PlanError, least=0)
    matrices = [plan.rows, *plan.branch_rows.values(), *plan.cross_rows.values(), *plan.part_rows.values()]
    needed = [step for matrix in matrices for step in np.flatnonzero(matrix[first_step:, :first_step].any(axis=0))]
    if first_step and plan.start_row is not None and plan.start_row[first_step:].any():
        raise PlanError(f"The plan cannot begin at step {first_step}: later steps weigh the run's first sample.")
    mixing, mixed = _tail_of_mixing(plan.mixing, first_step)
    if needed or mixed:
        earliest = min([*needed, *mixed])
        missing = "the run's first sample" if earliest == START else f"features of step {earliest}"
        raise PlanError(f"The plan cannot begin at step {first_step}: later steps need {missing}.")

    def cut(rows: Mapping) -> dict:
        return {name: matrix[first_step:, first_step:] for name, matrix in rows.items()}

    return replace(
        plan,
        grid=plan.grid.tail(first_step),
        computed_steps=tuple(step - first_step for step in plan.computed_steps if step >= first_step),
        rows=plan.rows[first_step:, first_step:],
        branch_rows=cut(plan.branch_rows),
        cross_rows=cut(plan.cross_rows),
        mixing=mixing,
        part_rows=cut(plan.part_rows),
        start_row=None if plan.start_row is None else plan.start_row[first_step:],
    )


def _tail_of_mixing(mixing: ChannelMixing | None, first_step: int) -> tuple[ChannelMixing | None, list[int]]:
    """Return the corrections of the steps from ``first_step`` on, and the earlier steps that they need."""
    if mixing is None or not first_step:
        return mixing, []
    later = [segment for segment in mixing.segments if segment.steps[-1] >= first_step]
    needed = [step for segment in later for step in segment.sources if step < first_step]
    if needed or not later:
        return None, needed
    shifted = (
        replace(
            segment,
            steps=tuple(step - first_step for step in segment.steps),
            sources=tuple(step - first_step for step in segment.sources),
        )
        for segment in later
    )
    return ChannelMixing(mixing.axis, tuple(shifted)), []
