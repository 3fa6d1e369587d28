"""What happened in one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from foreseer.plan import CompiledRows


@dataclass(frozen=True)
class FailOpen:
    """A step that was computed although the plan forecasts it, or that belongs to no plan.

    Attributes:
        step: its index in the run; -1 where it is unknown.
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
        bytes: its size in memory.
    """

    name: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def describe_parts(feature: Sequence[Tensor], names: Sequence[str] = ()) -> tuple[FeaturePart, ...]:
    """Return the name, shape and size of each tensor of a feature."""
    return tuple(
        FeaturePart(name, tuple(tensor.shape), tensor.nbytes)
        for tensor, name in zip(feature, names or [""] * len(feature), strict=True)
    )


@dataclass
class RunRecord:
    """Record of one run of a sampler.

    Computed and forecast calls add up to the calls received.

    Attributes:
        steps: the number of steps of the run; for schedulers such as Heun's, of calls that it makes.
        computed: per branch, the steps at which the network ran; -1 where the step is unknown.
        forecast: per branch, the steps that were forecast.
        failed_open: every step computed against the plan, with the reason.
        begun_late: branches that began, or began again, at a step that was not the run's first.
        forecast_seconds: host time spent in forecasts (not the wait for a device), all branches together.
        plans: per branch, the rows that it followed last.
        features: per branch, the tensors that its feature consists of, one per attention or MLP output at module sites.
        notes: per branch, a remark of its site (at the token site, how the tokens were chosen).
        unattached: other modules of the pipeline that take a timestep (a ControlNet): always computed, not counted.
    """

    steps: int = 0
    computed: dict[str, list[int]] = field(default_factory=dict)
    forecast: dict[str, list[int]] = field(default_factory=dict)
    failed_open: list[FailOpen] = field(default_factory=list)
    begun_late: list[tuple[int, str]] = field(default_factory=list)
    forecast_seconds: float = 0.0
    plans: dict[str, CompiledRows] = field(default_factory=dict, repr=False)
    features: dict[str, tuple[FeaturePart, ...]] = field(default_factory=dict, repr=False)
    notes: dict[str, str] = field(default_factory=dict, repr=False)
    unattached: tuple[str, ...] = ()
    _forecast_rows: dict[str, list[tuple[CompiledRows, int]]] = field(default_factory=dict, repr=False)

    def note_computed(self, branch: str, step: int, total: int) -> None:
        """Count a computed call of a run of ``total`` steps."""
        self.computed.setdefault(branch, []).append(step)
        self.steps = max(self.steps, total)

    def note_forecast(self, branch: str, step: int, rows: CompiledRows, row: int, seconds: float) -> None:
        """Count a call that was forecast by the row with index ``row``."""
        self.forecast.setdefault(branch, []).append(step)
        self._forecast_rows.setdefault(branch, []).append((rows, row))
        self.forecast_seconds += seconds

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
        """Number of computed steps (NFE), as in the papers: a step counts once for all its branches.

        Calls whose step is unknown count as separate steps; the branch with the most such calls determines how many.
        """
        return len(self.computed_steps) + max((steps.count(-1) for steps in self.computed.values()), default=0)

    @property
    def expected_error(self) -> float | None:
        """Expected relative error of the final latent; ``None`` if its plans have none, or several."""
        errors = {rows.plan.expected_error for rows in self.plans.values()}
        return errors.pop() if len(errors) == 1 else None

    @property
    def forward_passes(self) -> int:
        """Calls of the network that were computed, all branches and denoisers together."""
        return sum(len(steps) for steps in self.computed.values())

    @property
    def calls(self) -> int:
        """Calls that the sampler made: computed and forecast."""
        return self.forward_passes + sum(len(steps) for steps in self.forecast.values())

    @property
    def forecast_flops(self) -> int:
        """Floating-point operations of the forecasts: one product and one sum per element that carries weight."""
        total = 0
        for branch, rows_used in self._forecast_rows.items():
            for rows, row in rows_used:
                parts = self.features[branch]
                total += sum(2 * part.elements * rows.of_part(part.name).weights_at(row) for part in parts)
        return total

    @property
    def feature_elements(self) -> dict[str, int]:
        """Per branch, the number of elements of its feature."""
        return {branch: sum(part.elements for part in parts) for branch, parts in self.features.items()}

    @property
    def modules(self) -> tuple[str, ...]:
        """The network parts whose outputs were forecast, in call order; empty at other sites."""
        return tuple(dict.fromkeys(part.name for parts in self.features.values() for part in parts if part.name))

    def why_nothing_saved(self) -> str | None:
        """Return why a completed run forecast no step, else ``None``.

        A run with steps that failed open returns ``None``: each of these steps has a reason in `failed_open`.
        """
        computed = {step for steps in self.computed.values() for step in steps}
        if self.forecast or self.failed_open or self.steps - 1 not in computed or len(computed) < 2:
            return None
        if len(self.begun_late) >= len(computed) - 1:
            return (
                "no branch continued from one step to the next (another shape, other conditioning, or a step left out "
                f"at each of {len(computed)} steps), so that there was nothing to forecast from"
            )
        if any(rows.forecast_steps for rows in self.plans.values()):
            return None
        return f"all {len(computed)} steps of this run were computed, as the policy asks"

    def to_dict(self) -> dict[str, Any]:
        """The record as plain numbers, strings, lists and dictionaries."""
        return {
            "steps": self.steps,
            "nfe": self.nfe,
            "forward_passes": self.forward_passes,
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
            "unattached": list(self.unattached),
        }
