"""The policy: what a user asks for, compiled to a plan for each run's grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from foreseer.errors import PlanError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
from foreseer.plan.plan import Plan
from foreseer.schedule.base import Schedule
from foreseer.site import Site, read_site

KEPT_PLANS = 64


@dataclass(frozen=True, eq=False)
class Policy:
    """A schedule rule, a forecaster and a site; or one plan, for its own grid only (:meth:`from_plan`).

    Args:
        schedule: which steps compute.
        forecaster: how the others are forecast.
        site: where the feature is taken (`foreseer.site`), as words or as an object: ``"output"`` (the whole network is
            bypassed), ``"last_block"`` (the blocks are, the head runs with the current timestep), ...

    Raises:
        PlanError: the site is unknown, or an argument is of the wrong kind.

    >>> from foreseer.schedule import Uniform
    >>> from foreseer.forecast import Reuse
    >>> Policy(Uniform(interval=5), Reuse()).compile(Grid.uniform(50)).nfe
    10
    """

    schedule: Schedule | None
    forecaster: Forecaster | None
    site: str | Site = "output"
    plan: Plan | None = field(default=None, repr=False)
    otherwise: Policy | None = field(default=None, repr=False)
    _plans: dict[tuple[bytes, int, int], Plan] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", str(read_site(self.site)))
        if self.plan is not None:
            if not isinstance(self.plan, Plan) or (self.schedule, self.forecaster) != (None, None):
                raise PlanError("A policy is a schedule and a forecaster, or one plan: see Policy.from_plan(plan).")
            if self.plan.site != self.site:
                raise PlanError(f"The plan's site is {self.plan.site!r}, the policy's {self.site!r}.")
            if self.otherwise is not None and self.otherwise.site != self.site:
                raise PlanError(
                    f"The plan's site is {self.site!r}, that of what serves otherwise {self.otherwise.site!r}."
                )
            return
        if not isinstance(self.schedule, Schedule) or not isinstance(self.forecaster, Forecaster):
            raise PlanError(
                f"A policy takes a schedule (fs.schedule...) and a forecaster (fs.forecast...), received "
                f"{type(self.schedule).__name__} and {type(self.forecaster).__name__}."
            )

    @property
    def learned_on(self) -> Mapping[str, str]:
        """Words about what its rows were learned from, as a kernel's provenance has them; empty for a formula."""
        if self.plan is not None:
            return self.plan.provenance
        assert self.forecaster is not None
        return self.forecaster.learned_on

    @classmethod
    def from_plan(cls, plan: Plan, otherwise: Policy | None = None) -> Policy:
        """A policy that serves ``plan`` on the plan's own grid.

        Args:
            plan: the plan.
            otherwise: what serves other grids (``fs.learned(kernel, ...)`` for a rollout); its plans then say in their
                provenance that they stand in. Without it, runs on another grid compute every step.

        Raises:
            PlanError: an argument is of the wrong kind, or the two take features at different sites.
        """
        if not isinstance(plan, Plan):
            raise PlanError(f"Expected a Plan, received {type(plan).__name__}; load a file with fs.Plan.load(path).")
        return cls(None, None, plan.site, plan, otherwise)

    def compile(self, grid: Grid, first_step: int = 0, spent: int = 0) -> Plan:
        """The plan for the part of ``grid`` that begins at ``first_step``; the same object when asked again.

        Args:
            grid: the noise levels of the whole run.
            first_step: where the branch begins that is to follow the plan; the plan counts its steps from there.
            spent: steps that the run has computed before; a schedule with a budget has so many less for the rest.

        Raises:
            ForeseerError: the schedule or the forecaster cannot serve this grid, or the policy's plan is for another.
        """
        part = grid.tail(first_step)
        if self.plan is not None:
            if not self.plan.grid.matches(part) and self.otherwise is not None:
                found = self.otherwise.compile(grid, first_step, spent)
                words = f"stands in for a plan of another grid ({_words(self.plan.grid)})"
                return replace(found, provenance={**found.provenance, "note": words})
            if not self.plan.grid.matches(part):
                raise PlanError(
                    f"This plan is for another grid ({_words(self.plan.grid)}) than the run's ({_words(part)}). "
                    f"Sample as it was made for, or attach a policy that compiles to any grid."
                )
            return self.plan
        key = (grid.key, first_step, spent)
        found = self._plans.get(key)
        if found is None:
            assert self.schedule is not None
            assert self.forecaster is not None
            known = {name: self.learned_on[name] for name in ("model", "denoiser") if name in self.learned_on}
            provenance = {"schedule": repr(self.schedule), "forecaster": repr(self.forecaster), **known}
            computed = self.schedule.on(grid, first_step, spent)
            apart = self.schedule.branch_steps(grid, first_step)
            found = Plan.compile(part, computed, self.forecaster, self.site, provenance, branch_steps=apart)
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            self._plans[key] = found
        return found

    def __repr__(self) -> str:
        if self.plan is not None:
            return f"Policy.from_plan(<plan of {self.plan.nfe} of {len(self.plan.grid)} steps>)"
        return f"Policy({self.schedule!r}, {self.forecaster!r}, site={self.site!r})"


def _words(grid: Grid) -> str:
    return f"{len(grid)} steps, {grid.unit} {grid.levels[0]:.4g} to {grid.levels[-1]:.4g}"
