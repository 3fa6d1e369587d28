"""The policy: what a user asks for, compiled to a plan for each run's grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, final

from foreseer.errors import PlanError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
from foreseer.notices import said_if_slow
from foreseer.plan.compiled import CompiledRows
from foreseer.plan.plan import ORIGIN, Plan
from foreseer.schedule.base import Schedule
from foreseer.schedule.explicit import Explicit
from foreseer.schedule.uniform import Uniform
from foreseer.site import Site, read_site

if TYPE_CHECKING:
    from foreseer.plan.fixed_plan import FixedPlan

KEPT_PLANS = 64

Signal = Callable[[], Sequence[Any]]
Preview = Callable[[], list[Any] | None]


def no_signal() -> Sequence[Any]:
    """Signal of a branch that measures nothing inside the network."""
    return ()


class BranchDecisions(ABC):
    """Which steps of one branch compute, and the rows of the others.

    Steps are counted from the branch's first step.

    Attributes:
        rows: the rows in use.
    """

    rows: CompiledRows

    @abstractmethod
    def forecasts(self, step: int, signal: Signal) -> bool:
        """Whether ``step`` is forecast. ``signal`` measures inside the network, where the decision needs it."""

    def why_not(self) -> str | None:
        """Reason why the forecast decided on last must not be made, else ``None``."""
        return None

    def computed(self, step: int, feature: Sequence[Any], preview: Preview) -> None:
        """Note the feature computed at ``step``; ``preview`` makes the forecast that would have replaced it."""
        return


class RunDecisions(ABC):
    """One run under a policy."""

    @abstractmethod
    def branch(self, name: str, first_step: int, spent: int) -> BranchDecisions:
        """Decisions for the branch ``name``, which begins at ``first_step`` of the run.

        Args:
            name: the branch's name.
            first_step: the run's step at which the branch begins.
            spent: steps that the run has already computed; budgeted rules subtract them.

        Raises:
            ForeseerError: the policy cannot serve the rest of the run.
        """


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
        from foreseer.plan.fixed_plan import FixedPlan

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


class Scheduled(RunDecisions):
    """Decisions known before the run."""

    def __init__(self, policy: Policy, grid: Grid) -> None:
        self._policy = policy
        self._grid = grid

    def branch(self, name: str, first_step: int, spent: int) -> BranchDecisions:
        """Follow the plan that the policy compiles for the rest of the run."""
        return PlanDecisions(self._policy.compile(self._grid, first_step, spent).of_branch(name))


class PlanDecisions(BranchDecisions):
    """Follow the rows of a plan to the end."""

    def __init__(self, rows: CompiledRows) -> None:
        self.rows = rows
        self._forecast = rows.sparse_rows

    def forecasts(self, step: int, signal: Signal) -> bool:
        """Whether the plan forecasts ``step``."""
        return step in self._forecast


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
