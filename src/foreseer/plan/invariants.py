"""What must hold of a plan's rows: those of all branches, of one, and over the features of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from foreseer.checks import frozen
from foreseer.errors import PlanError


def are_equal(first: Mapping[Any, np.ndarray], second: Mapping[Any, np.ndarray]) -> bool:
    """Whether both hold the same matrices by the same names."""
    return first.keys() == second.keys() and all(np.array_equal(rows, second[name]) for name, rows in first.items())


def own_steps(rows: np.ndarray, computed: tuple[int, ...]) -> tuple[int, ...]:
    """The computed steps of a branch's own rows, of a plan that computes at ``computed``.

    Raises:
        PlanError: the branch computes where the plan does not, or not at step 0.
    """
    own = tuple(np.flatnonzero(np.diag(rows)).tolist())
    if not set(own) <= set(computed) or own[:1] != (0,):
        raise PlanError(f"A branch computes at {own}; expected step 0 and others of the plan's steps {computed}.")
    return own


def check_cross_rows(given: Any, branch_rows: Mapping[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """Copies of ``given`` that nobody can write to.

    Args:
        given: by (branch, other), square matrices.
        branch_rows: the branches' own rows, checked, in the order of their calls.

    Raises:
        PlanError: a branch is unknown or called too late, or a weight has no place.
    """
    if not isinstance(given, Mapping) or not all(isinstance(key, tuple) and len(key) == 2 for key in given):
        raise PlanError("Rows over another branch's features must be given by the names of both, as (branch, other).")
    names = list(branch_rows)
    checked = {}
    for (branch, other), matrix in given.items():
        if branch not in names or other not in names or names.index(other) >= names.index(branch):
            raise PlanError(
                f"{branch!r} cannot take features of {other!r}: expected two of {names}, the later called taking."
            )
        checked[branch, other] = _checked(matrix, branch_rows[branch], branch_rows[other])
    return checked


def _checked(given: Any, own: np.ndarray, others: np.ndarray) -> np.ndarray:
    try:
        rows = frozen(given)
    except (TypeError, ValueError) as error:
        raise PlanError(f"Rows over another branch must hold numbers, in rows of one length: {error}.") from error
    if rows.shape != own.shape or not np.all(np.isfinite(rows)):
        raise PlanError(f"Rows over another branch have shape {rows.shape}; expected {own.shape}, finite.")
    allowed = np.tri(len(own), dtype=bool) & np.diag(others).astype(bool) & ~np.diag(own).astype(bool)[:, None]
    outside = np.argwhere((rows != 0) & ~allowed)
    if outside.size:
        step, column = outside[0].tolist()
        raise PlanError(
            f"Row {step} weighs step {column} of another branch; only steps that the other computed until then may "
            "carry a weight, and only in rows of skipped steps."
        )
    return rows


def check_part_rows(
    given: Any, computed: tuple[int, ...], steps: int, branch_rows: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return ``given``, rows of parts of a feature by name, as read-only matrices after checking them.

    Raises:
        PlanError: a name is empty or that of a branch, or a shape or a weight is not valid in a plan.
    """
    if not isinstance(given, Mapping) or not all(isinstance(name, str) and name for name in given):
        raise PlanError("The rows of parts of the feature must be given by the part's name.")
    both = sorted(given.keys() & branch_rows.keys())
    if both:
        raise PlanError(f"{both[0]!r} names both a branch and a part of the feature; expected different names.")
    return {name: checked_rows(rows, computed, steps) for name, rows in given.items()}


def checked_start(given: Any, computed: tuple[int, ...], steps: int, site: str) -> np.ndarray | None:
    """Return ``given``, the weights of a run's first sample, as a read-only vector; ``None`` if all are 0.

    Raises:
        PlanError: the shape or a weight is not valid in a plan.
    """
    if given is None:
        return None
    try:
        row = frozen(given)
    except (TypeError, ValueError) as error:
        raise PlanError(f"The first sample's weights must be numbers: {error}.") from error
    if row.shape != (steps,) or not np.all(np.isfinite(row)) or np.any(row[list(computed)]):
        raise PlanError(
            f"The first sample's weights have shape {row.shape}; expected ({steps},), finite, 0 at {computed}."
        )
    if not row.any():
        return None
    if site != "output":
        raise PlanError(f"Only forecasts of the output can weigh the first sample; this plan's site is {site!r}.")
    return row


def checked_rows(given: Any, computed: tuple[int, ...], steps: int, fewer: bool = False) -> np.ndarray:
    """Return ``given`` as a read-only matrix after checking it.

    With ``fewer``, the computed steps are those with unit rows, a subset of ``computed``.

    Raises:
        PlanError: a shape or a weight is not valid in a plan.
    """
    try:
        rows = frozen(given)
    except (TypeError, ValueError) as error:
        raise PlanError(f"The rows must hold numbers, in rows of one length: {error}.") from error
    if rows.shape != (steps, steps):
        raise PlanError(f"The rows have shape {rows.shape}; a grid of {steps} steps needs ({steps}, {steps}).")
    if not np.all(np.isfinite(rows)):
        raise PlanError("A weight is not finite.")
    if fewer:
        computed = own_steps(rows, computed)
    _check_rows(rows, computed)
    return rows


def _check_rows(rows: np.ndarray, computed: tuple[int, ...]) -> None:
    steps = rows.shape[0]
    computes = np.zeros(steps, dtype=bool)
    computes[list(computed)] = True
    if not np.array_equal(np.diag(rows), computes):
        raise PlanError("Each computed step's row must be the unit row, and no skipped step may weigh itself.")
    allowed = np.tri(steps, dtype=bool)
    allowed &= computes
    allowed[computes] = False
    np.fill_diagonal(allowed, True)
    outside = rows != 0
    outside[allowed] = False
    if np.any(outside):
        step, column = (int(index) for index in np.unravel_index(np.argmax(outside), outside.shape))
        raise PlanError(f"Row {step} weighs step {column}; only computed steps before it may carry a weight.")
