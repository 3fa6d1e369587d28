"""What happened in one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

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


@dataclass(frozen=True)
class FeaturePart:
    """One tensor of a feature.

    Attributes:
        name: the part of the network that it is from; empty where the site has no parts.
        shape: its shape.
        bytes: what it takes in memory.
    """

    name: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def parts_of(feature: Sequence[Tensor], names: Sequence[str] = ()) -> tuple[FeaturePart, ...]:
    """The tensors of a feature, described."""
    return tuple(
        FeaturePart(name, tuple(one.shape), one.nbytes)
        for one, name in zip(feature, names or [""] * len(feature), strict=True)
    )


@dataclass
class RunRecord:
    """One run of a sampler, as the handle saw it.

    Attributes:
        steps: the number of steps on the run's grid.
        computed: per branch, the steps at which the network ran.
        forecast: per branch, the steps that were forecast.
        failed_open: every step computed against the plan, with the reason.
        begun_late: branches that began, or began anew, at a step that was not the run's first.
        forecast_seconds: host time spent in forecasts (not the wait for a GPU), all branches together.
        plans: per branch, the plan that it followed last.
        features: per branch, the tensors that its feature consists of, one an attention or MLP output at module sites.
        notes: per branch, what its site says about how it worked (at the token site, what chose the tokens).
    """

    steps: int = 0
    computed: dict[str, list[int]] = field(default_factory=dict)
    forecast: dict[str, list[int]] = field(default_factory=dict)
    failed_open: list[FailOpen] = field(default_factory=list)
    begun_late: list[tuple[int, str]] = field(default_factory=list)
    forecast_seconds: float = 0.0
    plans: dict[str, Plan] = field(default_factory=dict, repr=False)
    features: dict[str, tuple[FeaturePart, ...]] = field(default_factory=dict, repr=False)
    notes: dict[str, str] = field(default_factory=dict, repr=False)

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
            for part in self.features[branch]:
                of_part = plan.of_branch(part.name)
                total += 2 * part.elements * sum(of_part.weights_at(step - first_step) for step in steps)
        return total

    @property
    def feature_elements(self) -> dict[str, int]:
        """Per branch, the number of elements of its feature."""
        return {branch: sum(part.elements for part in parts) for branch, parts in self.features.items()}

    @property
    def modules(self) -> tuple[str, ...]:
        """The parts of the network whose outputs were forecast, in the order of their calls; empty at other sites."""
        return tuple(dict.fromkeys(part.name for parts in self.features.values() for part in parts if part.name))

    def why_nothing_saved(self, gated: bool = False) -> str | None:
        """Why a run to its end forecast nothing; ``None`` where it did, where it says so itself, or was broken off."""
        computed = {step for steps in self.computed.values() for step in steps}
        if self.forecast or self.failed_open or self.steps - 1 not in computed or len(computed) < 2:
            return None
        if len(self.begun_late) >= len(computed) - 1:
            return (
                "no branch went on from one step to the next (another shape, other conditioning, or a step left out at "
                f"each of {len(computed)} steps), so that there was nothing to forecast from"
            )
        if any(plan.forecast_steps for plan in self.plans.values()):
            return None
        if gated:
            return (
                f"the gate let none of {len(computed)} steps be forecast; allow it a larger error or fewer evaluations"
            )
        return f"the policy computes all {len(computed)} steps of this run; ask for fewer, or sample in more steps"

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
            "features": {
                branch: {
                    "tensors": len(parts),
                    "elements": sum(part.elements for part in parts),
                    "bytes": sum(part.bytes for part in parts),
                }
                for branch, parts in self.features.items()
            },
            "modules": list(self.modules),
            "notes": dict(self.notes),
        }
