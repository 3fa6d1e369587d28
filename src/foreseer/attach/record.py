"""What happened in one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from foreseer.plan import Plan


@dataclass(frozen=True)
class FailOpen:
    """A step that was computed although the plan forecasts it, or that belongs to no plan.

    Attributes:
        step: its index in the run; -1 where it could not be told.
        branch: the branch's name.
        reason: one sentence.
    """

    step: int
    branch: str
    reason: str


@dataclass
class RunRecord:
    """One run of a sampler, as the handle saw it.

    Attributes:
        steps: the number of steps on the run's grid.
        computed: per branch, the steps at which the network ran.
        forecast: per branch, the steps that were forecast.
        failed_open: every step computed against the plan, with the reason.
        forecast_seconds: host time spent in forecasts (not the wait for a GPU), all branches together.
        plans: per branch, the plan that it followed last.
        feature_elements: per branch, the number of elements of its feature.
    """

    steps: int = 0
    computed: dict[str, list[int]] = field(default_factory=dict)
    forecast: dict[str, list[int]] = field(default_factory=dict)
    failed_open: list[FailOpen] = field(default_factory=list)
    forecast_seconds: float = 0.0
    plans: dict[str, Plan] = field(default_factory=dict, repr=False)
    feature_elements: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def computed_steps(self) -> tuple[int, ...]:
        """The steps at which the network ran for at least one branch."""
        return tuple(sorted({step for steps in self.computed.values() for step in steps if step >= 0}))

    @property
    def forecast_steps(self) -> tuple[int, ...]:
        """The steps that were forecast for every branch."""
        return tuple(sorted({step for steps in self.forecast.values() for step in steps} - set(self.computed_steps)))

    @property
    def nfe(self) -> int:
        """Network evaluations as the papers count them: computed steps, however many branches each has.

        Calls whose step could not be told count as steps of their own, a branch's at most.
        """
        return len(self.computed_steps) + max((steps.count(-1) for steps in self.computed.values()), default=0)

    @property
    def evaluations(self) -> int:
        """Calls of the network that were computed, all branches and denoisers together."""
        return sum(len(steps) for steps in self.computed.values())

    @property
    def forecast_flops(self) -> int:
        """Floating-point operations of the forecasts: a product and a sum for each element that carries weight."""
        total = 0
        for branch, steps in self.forecast.items():
            plan = self.plans[branch]
            first_step = self.steps - len(plan.grid)
            rows = (plan.sparse_rows.get(step - first_step, ((), ())) for step in steps)
            total += 2 * self.feature_elements[branch] * sum(len(sources) for sources, _ in rows)
        return total

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dictionaries."""
        return {
            "steps": self.steps,
            "nfe": self.nfe,
            "evaluations": self.evaluations,
            "computed": {branch: list(steps) for branch, steps in self.computed.items()},
            "forecast": {branch: list(steps) for branch, steps in self.forecast.items()},
            "failed_open": [{"step": f.step, "branch": f.branch, "reason": f.reason} for f in self.failed_open],
            "forecast_seconds": self.forecast_seconds,
        }
