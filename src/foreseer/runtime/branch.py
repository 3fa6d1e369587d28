"""One branch of one run: which step computes, and what is forecast from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from foreseer.plan import Plan
from foreseer.runtime.combine import weighted_sum
from foreseer.runtime.store import FeatureStore, Keep


@dataclass
class BranchRun:
    """Applies a plan to the features of one branch, from ``first_step`` of the run on.

    Args:
        plan: compiled for the part of the run that this branch sees.
        first_step: the run's step at which the plan's step 0 falls.
        signature: what must not change while the branch lives (shapes, dtypes and device of the inputs).
        keep: where features are kept.
    """

    plan: Plan
    first_step: int
    signature: object
    keep: Keep = "device"
    last_step: int = field(init=False)
    store: FeatureStore = field(init=False)
    _rows: Mapping[int, tuple[list[int], list[float]]] = field(init=False)
    _freed_after: Mapping[int, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.last_step = self.first_step - 1
        self.store = FeatureStore(self.keep)
        self.follow(self.plan)

    def follow(self, plan: Plan) -> None:
        """Go on by ``plan``, made for the same grid; features that none of its later rows needs are freed."""
        self.plan = plan
        self._rows = plan.sparse_rows
        self._freed_after = plan.freed_after
        now = self.last_step - self.first_step
        self.store.drop([kept for kept in self.store.steps if plan.last_uses.get(kept, -1) <= now])

    def continues(self, step: int, signature: object) -> bool:
        """Whether a call at ``step`` is the next one of this branch, with the same shapes."""
        return step == self.last_step + 1 and signature == self.signature

    def forecasts(self, step: int) -> bool:
        """Whether the plan forecasts ``step``."""
        return step - self.first_step in self._rows

    def why_not(self, step: int) -> str | None:
        """Why the forecast that the plan asks for at ``step`` must not be made, or ``None``."""
        sources, _ = self._rows[step - self.first_step]
        if not sources:
            return "its row holds no weight"
        for source in sources:
            reason = self.store.why_unusable(source)
            if reason is not None:
                return reason
        return None

    def computed(self, step: int, tensors: Sequence[Tensor]) -> None:
        """Take note of what the network gave at ``step``; kept only if a later row needs it."""
        self.last_step = step
        local = step - self.first_step
        if local in self.plan.last_uses:
            self.store.put(local, tensors)
        self._free(local)

    def forecast(self, step: int) -> list[Tensor]:
        """The forecast feature of ``step``; frees what no later row needs."""
        result = self.preview(step)
        self.last_step = step
        self._free(step - self.first_step)
        return result

    def preview(self, step: int) -> list[Tensor]:
        """The forecast feature of ``step``, and nothing else done."""
        sources, weights = self._rows[step - self.first_step]
        features = [self.store.get(source) for source in sources]
        return [weighted_sum(tensors, weights) for tensors in zip(*features, strict=True)]

    def _free(self, local: int) -> None:
        if local in self._freed_after:
            self.store.drop(self._freed_after[local])
