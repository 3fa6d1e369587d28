"""What a named method is, and the policy that it makes for each run's step count."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

from foreseer.checks import check_target, one_target
from foreseer.errors import PlanError, naming_the_extra
from foreseer.forecast import L2P, Forecaster, Reuse
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy, RunDecisions, ScheduledPolicy
from foreseer.schedule import Schedule, Uniform
from foreseer.schedule.base import budget_at

Budget = Callable[[int, int], Schedule]


@dataclass(frozen=True)
class Method:
    """A named method.

    Attributes:
        name: its name in calls and on the command line.
        title: its name in tables.
        summary: the idea, in one sentence.
        source: paper and setting.
        schedule: the published schedule; ``None`` for a gate's method, and for step reduction, which has no plan.
        forecaster: the published forecaster; ``None`` for step reduction, and where it must be given (L2P's matrix).
        site: where the published program, or its lightest form, takes the feature.
        budget: the schedule of the same family for (nfe, steps); not needed for a :class:`foreseer.schedule.Uniform`.
        gate: makes the gate that decides while sampling, in place of a schedule; gates need torch.
        decided_by: which branch of guidance decides for a gate.
    """

    name: str
    title: str
    summary: str
    source: str
    schedule: Schedule | None = None
    forecaster: Forecaster | None = None
    site: str = "output"
    budget: Budget | None = None
    gate: Callable[[], Any] | None = None
    decided_by: Literal["first", "each"] = "first"

    @property
    def reduces_steps(self) -> bool:
        """Whether the method samples with fewer steps, without a plan."""
        return self.schedule is None and self.gate is None

    def policy(self, steps: int = 50, nfe: int | None = None, site: str | None = None) -> Policy:
        """Return the method as a policy: its published setting, or ``nfe`` computed steps of ``steps``.

        For a gate, ``nfe`` is the maximum number of computed steps.

        Raises:
            PlanError: the method has no policy, or needs a trained matrix.
            ScheduleError: the budget does not fit.
        """
        if self.gate is not None and self.forecaster is not None:
            with naming_the_extra():
                from foreseer.gate import GatedPolicy

            return GatedPolicy(self.gate(), self.forecaster, site or self.site, nfe, self.decided_by)
        if self.schedule is None:
            raise PlanError(f"{self.title} has no plan: sample with that many steps (num_inference_steps).")
        if self.forecaster is None:
            raise PlanError(
                f"{self.title} needs its trained matrix: fs.methods.resolve({self.name!r}, ...) with matrix=, a weight "
                "file (--matrix FILE on the command line), or with profile=, a kernel."
            )
        schedule = self.schedule if nfe is None else self._at(nfe, steps, self.schedule)
        return ScheduledPolicy(schedule, self.forecaster, site or self.site)

    def _at(self, nfe: int, steps: int, schedule: Schedule) -> Schedule:
        """The schedule of the same family for ``nfe`` computed steps."""
        if self.budget is not None:
            return self.budget(nfe, steps)
        if isinstance(schedule, Uniform):
            return Uniform.for_nfe(nfe, steps, schedule.warmup)
        raise PlanError(
            f"{self.title} computes the steps of its {type(schedule).__name__} schedule, whatever the budget: leave "
            "nfe and speedup out, or make it a foreseer.methods.Method with budget="
        )

    def with_matrix(self, path: str | os.PathLike[str]) -> Method:
        """The method with the L2P weights of a released text file.

        Raises:
            PlanError: the method does not use an L2P matrix.
            ForecastError: the file holds no such matrix.
        """
        if self.name != "l2p":
            raise PlanError(f"{self.title} takes no matrix; only l2p does.")
        return replace(self, forecaster=L2P.from_text(path))


def method_of(name: str, definition: Any) -> Method:
    """A method from what a user's module or an installed package offers under ``name``.

    Args:
        name: the method's name.
        definition: a :class:`Method`, a :class:`foreseer.Policy`, a forecaster or a gate; or a class or function that
            makes one of these without arguments.

    Raises:
        PlanError: it is something else.
    """
    made = definition() if isinstance(definition, type) or not _is_definition(definition) else definition
    if isinstance(made, Method):
        return replace(made, name=name)
    summary, source = f"{type(made).__name__}, a method of your own", type(made).__module__
    if isinstance(made, Forecaster):
        return Method(name, name, summary, source, Uniform(interval=4, warmup=3), made)
    if isinstance(made, ScheduledPolicy):
        return Method(name, name, summary, source, made.schedule, made.forecaster, str(made.site))
    if hasattr(made, "begin") and hasattr(made, "signal") and not isinstance(made, Policy):
        return Method(name, name, summary, source, forecaster=Reuse(), gate=lambda: made)
    raise PlanError(
        f"{name} is a {type(made).__name__}; expected a Method, a Policy(schedule, forecaster), a forecaster or a gate."
    )


def _is_definition(value: Any) -> bool:
    return isinstance(value, Method | Policy | Forecaster) or (hasattr(value, "begin") and not isinstance(value, type))


@final
@dataclass(frozen=True, eq=False)
class BudgetPolicy(Policy):
    """A method at a budget that is bound to each run's actual step count.

    Args:
        method: the method.
        nfe: number of computed steps; or
        speedup: number of steps divided by the number of computed steps, rounded to at least one computed step.
        site_override: where the feature is taken, in place of the method's site.

    Raises:
        PlanError: both or neither budget was given, or one is out of range.

    >>> from foreseer.methods import find
    >>> policy = BudgetPolicy(find("taylorseer"), speedup=5)
    >>> policy.compile(Grid.uniform(50)).nfe, policy.compile(Grid.uniform(20)).nfe
    (10, 4)
    """

    method: Method
    nfe: int | None = None
    speedup: float | None = None
    site_override: str | None = None
    _policies: dict[int, Policy] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        targets = {"nfe": self.nfe, "speedup": self.speedup}
        check_target(one_target(PlanError, targets, required=True), PlanError)
        self.of_run(max(50, self.nfe or 0))

    def of_run(self, steps: int) -> Policy:
        """The method's policy for runs of ``steps`` steps."""
        policy = self._policies.get(steps)
        if policy is None:
            nfe = budget_at(steps, self.nfe, self.speedup)
            policy = self._policies[steps] = self.method.policy(steps, nfe, self.site_override)
        return policy

    @property
    def site(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The method's, or the one given in its place."""
        return self.site_override or self.method.site

    @property
    def _any(self) -> Policy:
        return next(iter(self._policies.values()))

    @property
    def signal(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The method's."""
        return self._any.signal

    @property
    def decides_while_sampling(self) -> bool:
        """Whether the method is a gate."""
        return self._any.decides_while_sampling

    @property
    def learned_on(self) -> Mapping[str, str]:
        """The method's."""
        return self._any.learned_on

    @property
    def joins_visits(self) -> bool:
        """The method's."""
        return self._any.joins_visits

    def begin(self, grid: Grid) -> RunDecisions:
        """Decisions of the method at this budget for the run's step count."""
        return self.of_run(len(grid)).begin(grid)

    def compile(self, grid: Grid, first_step: int = 0, spent: int = 0) -> Plan:
        """The method's plan at this budget for the run's step count; see :meth:`Policy.compile`."""
        return self.of_run(len(grid)).compile(grid, first_step, spent)
