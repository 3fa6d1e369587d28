"""The policy: what a user asks for, compiled to a plan for each run's grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

from foreseer.errors import PlanError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
from foreseer.notices import said_if_slow
from foreseer.plan.plan import ORIGIN, Plan
from foreseer.plan.run_decisions import RunDecisions, Scheduled
from foreseer.schedule.base import Schedule
from foreseer.schedule.explicit import Explicit
from foreseer.schedule.uniform import Uniform
from foreseer.site import Site, read_site

KEPT_PLANS = 64


class Policy:
    """What a user asks for. ``Policy(schedule, forecaster, site=...)`` makes a :class:`ScheduledPolicy`.

    A policy is attached, not a plan: it is compiled for each run's actual grid, so that another step count or image to
    image just works. Subclass it for rules that neither a schedule nor a gate can express.

    Attributes:
        site: where the feature is taken, as text (`foreseer.site`).
        signal: name of what is measured inside the network before each decision, ``None`` for nothing.

    >>> from foreseer.schedule import Uniform
    >>> from foreseer.forecast import Reuse
    >>> Policy(Uniform(interval=5), Reuse()).compile(Grid.uniform(50)).nfe
    10
    """

    site: str | Site
    signal: ClassVar[str | None] | str | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Policy:
        """A scheduled policy where the abstract class itself is called."""
        return object.__new__(ScheduledPolicy if cls is Policy else cls)

    @staticmethod
    def from_plan(plan: Plan, otherwise: Policy | None = None) -> FixedPlan:
        """The policy that serves ``plan``; see :class:`FixedPlan`."""
        return FixedPlan(plan, otherwise)

    @property
    def learned_on(self) -> Mapping[str, str]:
        """Provenance of what the rows were learned from, as a kernel records it; empty for a formula."""
        return {}

    @property
    def names_every_step(self) -> bool:
        """Whether the user listed the computed steps, so that a run which saves nothing needs no warning."""
        return False

    @property
    def decides_while_sampling(self) -> bool:
        """Whether decisions depend on what the network computes, so that there is no plan before the run."""
        return False

    @property
    def joins_visits(self) -> bool:
        """Whether all visits of a noise level are steps of one run: :meth:`foreseer.Grid.of_calls`.

        Otherwise first visits, second visits, ... are separate runs.
        """
        return False

    def begin(self, grid: Grid) -> RunDecisions:
        """Decisions for one run on ``grid``; every policy defines them.

        Raises:
            ForeseerError: the policy cannot serve this grid.
        """
        raise NotImplementedError

    def compile(self, grid: Grid, first_step: int = 0, spent: int = 0) -> Plan:
        """Return the plan for the part of ``grid`` that begins at ``first_step``.

        Repeated calls return the same object.

        Args:
            grid: the noise levels of the whole run.
            first_step: the run's step at which the plan's step 0 falls.
            spent: steps that the run has already computed; a schedule with a budget subtracts them.

        Raises:
            ForeseerError: the policy cannot serve this grid, or decides while sampling and has no plan.
        """
        raise NotImplementedError


@final
@dataclass(frozen=True, eq=False)
class ScheduledPolicy(Policy):
    """A schedule and a forecaster, compiled to a plan for each grid.

    Args:
        schedule: which steps compute.
        forecaster: how the others are forecast.
        site: where the feature is taken (`foreseer.site`), as text or object: ``"output"`` (the whole network is
            skipped), ``"last_block"`` (the blocks are skipped; the head runs with the current timestep), ...

    Raises:
        PlanError: the site is unknown, or an argument has the wrong type.
    """

    schedule: Schedule
    forecaster: Forecaster
    site: str | Site = "output"
    _plans: dict[tuple[bytes, int, int], Plan] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", str(read_site(self.site)))
        if not isinstance(self.schedule, Schedule) or not isinstance(self.forecaster, Forecaster):
            raise PlanError(
                f"A policy takes a schedule (fs.schedule...) and a forecaster (fs.forecast...), received "
                f"{type(self.schedule).__name__} and {type(self.forecaster).__name__}."
            )

    @property
    def learned_on(self) -> Mapping[str, str]:
        """The forecaster's."""
        return self.forecaster.learned_on

    @property
    def names_every_step(self) -> bool:
        """Whether the schedule lists its steps, or is asked to compute all of them."""
        rule = self.schedule
        return isinstance(rule, Explicit) or (isinstance(rule, Uniform) and rule.interval == 1)

    @property
    def joins_visits(self) -> bool:
        """Whether the rows do, or the searched steps of rows that do not depend on the levels."""
        return self.forecaster.joins_visits or (self.forecaster.ignores_levels and self.schedule.joins_visits)

    def begin(self, grid: Grid) -> RunDecisions:
        """The plan's steps."""
        return Scheduled(self, grid)

    def compile(self, grid: Grid, first_step: int = 0, spent: int = 0) -> Plan:
        """The plan; see :meth:`Policy.compile`."""
        part = grid.tail(first_step)
        key = (grid.key, first_step, spent)
        plan = self._plans.get(key)
        if plan is None:
            origin = {name: self.learned_on[name] for name in ORIGIN if name in self.learned_on}
            provenance = {"schedule": repr(self.schedule), "forecaster": repr(self.forecaster), **origin}
            with said_if_slow(f"Searching the computed steps of a run of {len(part)} steps, once for this grid ..."):
                computed = self.schedule.on(grid, first_step, spent)
                branch_steps = self.schedule.branch_steps(grid, first_step)
                plan = Plan.compile(part, computed, self.forecaster, self.site, provenance, branch_steps=branch_steps)
                error = self.forecaster.expected_error(part, plan.rows, plan.branch_rows, plan.cross_rows)
                if error is not None:
                    plan = replace(plan, provenance={**provenance, "expected_error": f"{error:.3g}"})
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def __repr__(self) -> str:
        return f"Policy({self.schedule!r}, {self.forecaster!r}, site={self.site!r})"


@final
@dataclass(frozen=True, eq=False)
class FixedPlan(Policy):
    """One plan, for its own grid.

    Args:
        plan: the plan.
        otherwise: serves other grids (``fs.learned(kernel, ...)`` for a rollout); its plans say so in their provenance.
            Without it, runs on another grid compute every step.

    Raises:
        PlanError: an argument has the wrong type, or the two take features at different sites.
    """

    plan: Plan
    otherwise: Policy | None = None
    _tails: dict[int, Plan | None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.plan, Plan):
            kind = type(self.plan).__name__
            raise PlanError(f"Expected a Plan, received {kind}; load a file with fs.Plan.load(path).")
        if self.otherwise is not None and not isinstance(self.otherwise, Policy):
            raise PlanError(f"otherwise is a {type(self.otherwise).__name__}; expected a Policy.")
        if self.otherwise is not None and self.otherwise.site != self.site:
            raise PlanError(
                f"The plan's site is {self.site!r}, that of what serves other grids {self.otherwise.site!r}."
            )

    @property
    def site(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The plan's."""
        return self.plan.site

    @property
    def learned_on(self) -> Mapping[str, str]:
        """The plan's provenance."""
        return self.plan.provenance

    @property
    def names_every_step(self) -> bool:
        """True: a plan lists its steps."""
        return True

    @property
    def joins_visits(self) -> bool:
        """Whether the plan's grid has levels that are visited more than once."""
        return self.plan.grid.repeats

    def begin(self, grid: Grid) -> RunDecisions:
        """The plan's steps."""
        return Scheduled(self, grid)

    def compile(self, grid: Grid, first_step: int = 0, spent: int = 0) -> Plan:
        """The plan, its last steps where another network begins, or what serves other grids."""
        part = grid.tail(first_step)
        if self.plan.grid.matches(part):
            return self.plan
        tail = self._tail(part)
        if tail is not None:
            return tail
        if self.otherwise is None:
            raise PlanError(
                f"This plan is for another grid ({_describe(self.plan.grid)}) than the run's ({_describe(part)}). "
                f"Sample as it was made for, or attach a policy that compiles to any grid."
            )
        plan = self.otherwise.compile(grid, first_step, spent)
        note = f"replaces a plan made for another grid ({_describe(self.plan.grid)})"
        return replace(plan, provenance={**plan.provenance, "note": note})

    def _tail(self, part: Grid) -> Plan | None:
        """The plan's last steps, if they are those of ``part`` and need nothing from before."""
        first_step = len(self.plan.grid) - len(part)
        if first_step not in self.plan.computed_steps or not self.plan.grid.tail(first_step).matches(part):
            return None
        if first_step not in self._tails:
            try:
                self._tails[first_step] = self.plan.tail(first_step)
            except PlanError:
                self._tails[first_step] = None
        return self._tails[first_step]

    def __repr__(self) -> str:
        return f"Policy.from_plan(<plan of {self.plan.nfe} of {len(self.plan.grid)} steps>)"


def _describe(grid: Grid) -> str:
    return f"{len(grid)} steps, {grid.unit} {grid.levels[0]:.4g} to {grid.levels[-1]:.4g}"
