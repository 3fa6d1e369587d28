"""The gated policy: a gate and a forecaster, in place of a schedule and a forecaster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, final

import numpy as np

from foreseer.checks import check_count, check_kind
from foreseer.errors import PlanError
from foreseer.forecast.base import Forecaster
from foreseer.gate.base import Gate
from foreseer.gate.decisions import GatedRun
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy, RunDecisions
from foreseer.site import Site, read_site

DecidedBy = Literal["first", "each"]
KEPT_PLANS = 512


@final
@dataclass(frozen=True, eq=False)
class GatedPolicy(Policy):
    """A gate decides while sampling which steps compute; accepted wherever a :class:`foreseer.Policy` is.

    Args:
        gate: decides.
        forecaster: how the other steps are forecast; rows are made for the steps that were computed, and kept.
        site: where the feature is taken, as in a scheduled policy.
        max_nfe: the largest number of steps of a run that may compute; ``None`` for any number. Only a step that cannot
            be forecast is computed beyond it, and the record says why.
        decided_by: ``"first"``: of the branches of guidance, the one called first at a step decides for all, so that
            the others compute and forecast with it. ``"each"``: each branch decides for itself.

    Raises:
        PlanError: an argument has the wrong type, or the site is unknown.
    """

    gate: Gate
    forecaster: Forecaster
    site: str | Site = "output"
    max_nfe: int | None = None
    decided_by: DecidedBy = "first"
    _plans: dict[tuple[bytes, tuple[int, ...], int | None], Plan] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", str(read_site(self.site)))
        check_kind("gate", self.gate, Gate, PlanError)
        check_kind("forecaster", self.forecaster, Forecaster, PlanError)
        if self.max_nfe is not None:
            check_count("max_nfe", self.max_nfe, PlanError, least=1)
        if self.decided_by not in ("first", "each"):
            raise PlanError(f"decided_by is {self.decided_by!r}; expected 'first' or 'each'.")

    @property
    def signal(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The gate's."""
        return self.gate.signal

    @property
    def decides_while_sampling(self) -> bool:
        """True."""
        return True

    @property
    def learned_on(self) -> Mapping[str, str]:
        """The forecaster's."""
        return self.forecaster.learned_on

    @property
    def joins_visits(self) -> bool:
        """Whether the rows do."""
        return self.forecaster.joins_visits

    def begin(self, grid: Grid) -> RunDecisions:
        """The gate's decisions during one run."""
        return GatedRun(self, grid)

    def compile(self, grid: Grid, first_step: int = 0, spent: int = 0) -> Plan:
        """Refused: a gate has no plan before the run.

        Raises:
            PlanError: always.
        """
        raise PlanError(
            f"{type(self.gate).__name__} decides while sampling, so that there is no plan before the run; read "
            "handle.record.plans after it."
        )

    def plan_after(self, computed_steps: tuple[int, ...], grid: Grid, next_step: int | None = None) -> Plan:
        """Return the plan that computes ``computed_steps`` of ``grid`` and forecasts the rest.

        Plans are cached across runs.

        Args:
            computed_steps: the steps computed so far.
            grid: the noise levels of the branch's part of the run.
            next_step: the next step that will compute; error feedback before it then corrects by there.

        Raises:
            ForeseerError: the forecaster has no rows for these steps.
        """
        if next_step is not None and not computed_steps[-1] + 1 < next_step < len(grid):
            next_step = None
        if not self.forecaster.depends_on_next_step:
            next_step = None
        key = (grid.key, computed_steps, next_step)
        plan = self._plans.get(key)
        if plan is None:
            provenance = {"gate": repr(self.gate), "forecaster": repr(self.forecaster)}
            plan = Plan.compile(grid, computed_steps, self.forecaster, self.site, provenance)
            if next_step is not None:
                ahead = Plan.compile(grid, (*computed_steps, next_step), self.forecaster, self.site, provenance)
                plan = _until(plan, ahead, slice(computed_steps[-1] + 1, next_step))
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan


def _until(plan: Plan, ahead: Plan, steps: slice) -> Plan:
    """Return ``plan`` with the rows of ``ahead`` at ``steps``."""

    def joined(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        rows = rows.copy()
        rows[steps] = others[steps]
        return rows

    return replace(
        plan,
        rows=joined(plan.rows, ahead.rows),
        branch_rows={name: joined(rows, ahead.branch_rows[name]) for name, rows in plan.branch_rows.items()},
        cross_rows={pair: joined(rows, ahead.cross_rows[pair]) for pair, rows in plan.cross_rows.items()},
        part_rows={name: joined(rows, ahead.part_rows[name]) for name, rows in plan.part_rows.items()},
    )
