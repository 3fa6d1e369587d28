"""One branch of one run: which step computes, and what is forecast from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from foreseer.plan import Plan
from foreseer.runtime.combine import weighted_sum
from foreseer.runtime.store import FeatureStore, Keep, Kept


class Forecast(Sequence[Tensor]):
    """A forecast feature, each of whose tensors is made when it is asked for, and not kept."""

    def __init__(self, parts: list[tuple[list[Kept], list[float]]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, weights = self._parts[index]
        return weighted_sum([feature[index] for feature in features], weights)


@dataclass
class BranchRun:
    """Applies a plan to the features of one branch, from ``first_step`` of the run on.

    Args:
        plan: compiled for the part of the run that this branch sees.
        first_step: the run's step at which the plan's step 0 falls.
        signature: what must not change while the branch lives (shapes, dtypes and device of the inputs).
        keep: where features are kept.
        others: the runs of the branches by name, this one's among them as soon as it is called; the plan may weigh
            their features too. Held weakly by whoever makes it, so that no run keeps another alive.
    """

    plan: Plan
    first_step: int
    signature: object
    keep: Keep = "device"
    others: Mapping[str, BranchRun] = field(default_factory=dict, repr=False)
    last_step: int = field(init=False)
    store: FeatureStore = field(init=False)
    layout: list[object] = field(init=False, default_factory=list)
    _names: tuple[str, ...] = field(init=False, default=())
    _freed_after: Mapping[int, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.last_step = self.first_step - 1
        self.store = FeatureStore(self.keep)
        self.follow(self.plan)

    def follow(self, plan: Plan) -> None:
        """Go on by ``plan``, made for the same grid; features that none of its later rows needs are freed."""
        self.plan = plan
        self._freed_after = plan.freed_after
        now = self.last_step - self.first_step
        self.store.drop([kept for kept in self.store.steps if plan.last_uses.get(kept, -1) <= now])

    def continues(self, step: int, signature: object) -> bool:
        """Whether a call at ``step`` is the next one of this branch, with the same shapes."""
        return step == self.last_step + 1 and signature == self.signature

    def forecasts(self, step: int) -> bool:
        """Whether the plan forecasts ``step``."""
        return step - self.first_step in self.plan.sparse_rows

    def why_not(self, step: int) -> str | None:
        """Why the forecast that the plan asks for at ``step`` must not be made, or ``None``."""
        sources: set[int] = set()
        crossing = self.plan.sparse_cross_rows.get(step - self.first_step, ())
        for name in dict.fromkeys(self._names) or ("",):
            of_part, _ = self._row(name, step)
            if not of_part and not crossing:
                return "its row holds no weight"
            sources.update(of_part)
        for source in sorted(sources):
            reason = self.store.why_unusable(source)
            if reason is not None:
                return reason
        for other, used, _ in crossing:
            reason = self._why_not_of(other, used)
            if reason is not None:
                return reason
        return None

    def _why_not_of(self, other: str, used: Sequence[int]) -> str | None:
        """Why the features that another branch computed at ``used`` cannot be weighed here, or ``None``."""
        run = self.others.get(other)
        if run is None or run.first_step != self.first_step:
            return f"it needs features of {other}, which did not begin at the same step"
        for source in used:
            reason = run.store.why_unusable(source)
            if reason is not None:
                return f"it needs features of {other}: {reason}"
        if run.layout != self.layout:
            return f"it needs features of {other}, which have another shape, dtype or device"
        return None

    def computed(self, step: int, tensors: Sequence[Tensor], names: Sequence[str] = ()) -> None:
        """Take note of what the network gave at ``step``; kept only if a later row needs it.

        Args:
            step: the run's step.
            tensors: the feature.
            names: of the parts of the network that the tensors are from, where they may have rows of their own.
        """
        self.last_step = step
        self._names = tuple(names)
        before = self.layout
        self.layout = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        if before and self.layout and before != self.layout:
            self.store.give_up(f"step {step} gave another shape, dtype or device")
        local = step - self.first_step
        if local in self.plan.last_uses:
            self.store.put(local, tensors)
        self._free(local)

    def forecast(self, step: int) -> Forecast:
        """The forecast feature of ``step``; frees what no later row needs."""
        result = self._forecast(step)
        self.last_step = step
        self._free(step - self.first_step)
        return result

    def preview(self, step: int) -> list[Tensor]:
        """The forecast feature of ``step``, and nothing else done."""
        return list(self._forecast(step))

    def _forecast(self, step: int) -> Forecast:
        taken: list[Kept] = []
        given: list[float] = []
        for other, used, weights in self.plan.sparse_cross_rows.get(step - self.first_step, ()):
            taken += [self.others[other].store.get(source) for source in used]
            given += weights
        used, weights = self._row("", step)
        if not self._names:
            features = [self.store.get(source) for source in used] + taken
            return Forecast([(features, weights + given)] * len(features[0]))
        rows = {name: self._row(name, step) for name in dict.fromkeys(self._names)}
        features = {name: [self.store.get(source) for source in sources] for name, (sources, _) in rows.items()}
        return Forecast([(features[name] + taken, rows[name][1] + given) for name in self._names])

    def _row(self, name: str, step: int) -> tuple[list[int], list[float]]:
        """The computed steps that carry weight in the forecast of the part called ``name``, and their weights."""
        return self.plan.of_branch(name).sparse_rows[step - self.first_step]

    def _free(self, local: int) -> None:
        if local in self._freed_after:
            self.store.drop(self._freed_after[local])
        for other, source in self.plan.given_back.get(local, ()):
            run = self.others.get(other)
            if run is not None and run.first_step == self.first_step:
                run.store.drop((source,))
