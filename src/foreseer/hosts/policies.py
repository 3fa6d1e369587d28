"""From a host's choice to policies: budgets that include the ends, and one policy for any step count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from foreseer.forecast import Reuse
from foreseer.gate import GatedPolicy
from foreseer.grid import Grid
from foreseer.methods import find
from foreseer.methods.defaults import DEFAULT_METHOD, DEFAULT_SPEEDUP
from foreseer.methods.profile import Profile
from foreseer.plan import Plan, Policy, RunDecisions, ScheduledPolicy
from foreseer.schedule import Schedule, Uniform
from foreseer.schedule.base import budget_at

if TYPE_CHECKING:
    from foreseer.hosts.choice import Choice

EVERY_STEP = ScheduledPolicy(Uniform(interval=1), Reuse())


def policy_for(choice: Choice, grid: Grid, first: int) -> Policy | None:
    """Return the policy of a choice on ``grid``; ``None`` if every step is to be computed.

    The steps that always compute are part of the budget where that is possible.

    Args:
        choice: method, budget and profile.
        grid: the noise levels of the run.
        first: how many steps compute at the beginning.

    Raises:
        ForeseerError: the method cannot serve such a grid.
    """
    steps = len(grid)
    if choice.quality == "exact":
        return None
    profile = choice.profile if isinstance(choice.profile, Profile) and not choice.method else None
    if profile is not None and (choice.quality is not None or not choice.target):
        policy = _ended(profile.policy(**choice.target), first, choice.last_steps)
        return policy if policy.compile(grid).nfe < steps else None
    budget = budget_at(steps, choice.nfe, choice.speedup or DEFAULT_SPEEDUP)
    if budget >= steps:
        return None
    for nfe in range(budget, 0, -1):
        if profile is not None:
            policy = profile.policy(nfe=nfe)
        else:
            policy = find(choice.method or DEFAULT_METHOD).policy(steps, nfe, site="output")
        if isinstance(policy, GatedPolicy):
            return policy
        policy = _ended(policy, first, choice.last_steps, budget)
        computed = policy.compile(grid).nfe
        if computed <= budget or nfe == 1:
            return policy if computed < steps else None
    return None


def _ended(policy: Policy, first: int, last: int, least: int = 0) -> Policy:
    """``policy`` with the ends that always compute; a refined plan stays as it is."""
    if (first == 1 and last == 0) or not isinstance(policy, ScheduledPolicy):
        return policy
    return ScheduledPolicy(WithEnds(policy.schedule, first, last, least), policy.forecaster, policy.site)


@dataclass(frozen=True)
class WithEnds(Schedule):
    """The steps of another schedule, plus the first and last steps of the run.

    Args:
        schedule: the other schedule.
        first: how many steps compute at the beginning.
        last: how many steps compute at the end.
        least: how many steps compute in all, at least, in runs from the first step; the widest gaps are halved.

    >>> from foreseer.schedule import Uniform
    >>> WithEnds(Uniform(interval=4), first=2, last=1).computed_steps(10)
    (0, 1, 4, 8, 9)
    """

    schedule: Schedule
    first: int
    last: int
    least: int = 0

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """Return the computed steps, as :meth:`foreseer.schedule.Schedule.on`.

        ``first`` counts from the beginning of the run, also for a part that begins later.
        """
        steps = len(grid) - first_step
        computed = self._with_ends(self.schedule.on(grid, first_step, spent), steps, self.first - first_step)
        return computed if first_step else self._filled(computed, steps)

    def _computed_steps(self, steps: int) -> Iterable[int]:
        return self._filled(self._with_ends(self.schedule.computed_steps(steps), steps, self.first), steps)

    def _filled(self, computed: tuple[int, ...], steps: int) -> tuple[int, ...]:
        while len(computed) < min(self.least, steps):
            begin, end = max(pairwise((*computed, steps)), key=lambda gap: gap[1] - gap[0])
            computed = tuple(sorted({*computed, (begin + end) // 2}))
        return computed

    def _with_ends(self, computed: tuple[int, ...], steps: int, first: int) -> tuple[int, ...]:
        ends = {*range(min(max(first, 0), steps)), *range(max(steps - self.last, 0), steps)}
        return tuple(sorted({*computed, *ends}))


@dataclass(frozen=True, eq=False)
class ChoicePolicy(Policy):
    """A choice as one policy for runs of any step count; each run follows :meth:`Choice.policy`.

    Args:
        choice: method and budget, known in advance.
    """

    choice: Choice
    site = "output"

    @property
    def learned_on(self) -> Mapping[str, str]:
        """Provenance of the profile's kernel, if its rows are used."""
        profile = self.choice.profile
        return profile.kernel.provenance if isinstance(profile, Profile) and not self.choice.method else {}

    @property
    def joins_visits(self) -> bool:
        """Whether the profile's kernel was recorded with a scheduler that visits levels more than once."""
        profile = self.choice.profile
        return isinstance(profile, Profile) and not self.choice.method and profile.kernel.grid.repeats

    def begin(self, grid: Grid) -> RunDecisions:
        """Decisions of the choice for this grid."""
        return self._on(grid).begin(grid)

    def compile(self, grid: Grid, first_step: int = 0, spent: int = 0) -> Plan:
        """The plan of the choice for this grid; see :meth:`foreseer.plan.Policy.compile`."""
        return self._on(grid).compile(grid, first_step, spent)

    def _on(self, grid: Grid) -> Policy:
        return self.choice.policy(grid) or EVERY_STEP
