"""The gated policy: a gate and a forecaster, in place of a schedule and a forecaster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from foreseer.checks import check_count, check_kind
from foreseer.errors import PlanError
from foreseer.forecast.base import Forecaster
from foreseer.gate.base import Gate
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy
from foreseer.site import Site, read_site

Deciding = Literal["first", "each"]
KEPT_PLANS = 512


@dataclass(frozen=True, eq=False)
class GatedPolicy:
    """A gate decides while sampling which steps compute; accepted wherever a :class:`foreseer.Policy` is.

    Args:
        gate: what decides.
        forecaster: how the other steps are forecast; rows are made for the steps that were computed, and kept.
        site: where the feature is taken, as in a policy.
        max_nfe: how many steps of a run may compute at most; ``None`` for any number. Only a step that must compute
            because it cannot be forecast is computed beyond it, and the record says why.
        deciding: ``"first"``: of the branches of guidance, the one called first at a step decides for all, so that the
            others compute and forecast with it. ``"each"``: each branch decides for itself.

    Raises:
        PlanError: an argument is of the wrong kind, or the site is unknown.
    """

    gate: Gate
    forecaster: Forecaster
    site: str | Site = "output"
    max_nfe: int | None = None
    deciding: Deciding = "first"
    _plans: dict[tuple[bytes, tuple[int, ...]], Plan] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", str(read_site(self.site)))
        check_kind("gate", self.gate, Gate, PlanError)
        check_kind("forecaster", self.forecaster, Forecaster, PlanError)
        if self.max_nfe is not None:
            check_count("max_nfe", self.max_nfe, PlanError, least=1)
        if self.deciding not in ("first", "each"):
            raise PlanError(f"deciding is {self.deciding!r}; expected 'first' or 'each'.")

    @property
    def learned_on(self) -> Mapping[str, str]:
        """As a policy's."""
        return self.forecaster.learned_on

    def plan_after(self, computed_steps: tuple[int, ...], grid: Grid) -> Plan:
        """The plan of a run on ``grid`` that computes ``computed_steps`` and forecasts the rest; kept across runs.

        Raises:
            ForeseerError: the forecaster has no rows for these steps.
        """
        key = (grid.key, computed_steps)
        found = self._plans.get(key)
        if found is None:
            provenance = {"gate": repr(self.gate), "forecaster": repr(self.forecaster)}
            found = Plan.compile(grid, computed_steps, self.forecaster, self.site, provenance)
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            self._plans[key] = found
        return found


AnyPolicy = Policy | GatedPolicy
