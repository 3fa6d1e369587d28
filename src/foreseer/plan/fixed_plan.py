"""The policy of one plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from foreseer.errors import PlanError
from foreseer.grid import Grid
from foreseer.plan.plan import Plan
from foreseer.plan.policy import Policy, RunDecisions, Scheduled


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
