"""One branch of one run: computes or forecasts each step, by fixed or adaptive rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from foreseer.grid import Grid
from foreseer.plan import BranchDecisions, CompiledRows, PlanDecisions, Policy
from foreseer.plan.mixing import START
from foreseer.plan.run_decisions import Signal, no_signal
from foreseer.runtime.combine import sum_onto, weighted_sum
from foreseer.runtime.layout import Layout, is_not_needed, joined, layout_of, same_layout
from foreseer.runtime.mix import ChannelMixer
from foreseer.runtime.store import FeatureStore, Keep, Kept

Summand = Kept | list[Tensor]


class Forecast(Sequence[Tensor]):
    """A forecast feature.

    Each tensor is made when it is read, and not kept; it is empty for a part that is not needed.
    """

    def __init__(self, parts: list[tuple[list[Summand], list[float]]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, weights = self._parts[index]
        tensors = [feature[index] for feature in features]
        return tensors[0].new_empty(0) if is_not_needed(tensors) else weighted_sum(tensors, weights)

    def onto(self, base: Tensor, scale: float) -> Tensor:
        """``base`` plus ``scale`` times the first tensor of the forecast."""
        features, weights = self._parts[0]
        return sum_onto(base, scale, [feature[0] for feature in features], weights)


class PolicyRun:
    """One run of one denoiser under a policy; makes its branches.

    Args:
        policy: decides which steps compute.
        grid: the noise levels of the whole run.
        keep: where features are kept.
    """

    def __init__(self, policy: Policy, grid: Grid, keep: Keep = "device") -> None:
        self._decisions = policy.begin(grid)
        self._keep: Keep = keep
        self._branches: WeakValueDictionary[str, BranchRun] = WeakValueDictionary()

    def branch(self, name: str, step: int, spent: int = 0) -> BranchRun:
        """The branch ``name``, beginning at ``step`` of a run that has computed ``spent`` steps before.

        Raises:
            ForeseerError: the policy cannot serve the rest of the run.
        """
        run = BranchRun(self._decisions.branch(name, step, spent), step, self._keep, self._branches)
        self._branches[name] = run
        return run


class BranchRun:
    """Applies rows to the features of one branch, from ``first_step`` of the run on.

    Args:
        decisions: which steps compute and the rows of the others; :class:`CompiledRows` are followed as they are.
        first_step: the run's step at which the rows' step 0 falls.
        keep: where features are kept.
        others: the runs of all branches by name; rows may weigh their features too. Hold it weakly, so that no run
            keeps another alive.
    """

    def __init__(
        self,
        decisions: BranchDecisions | CompiledRows,
        first_step: int,
        keep: Keep = "device",
        others: Mapping[str, BranchRun] | None = None,
    ) -> None:
        self._decisions = PlanDecisions(decisions) if isinstance(decisions, CompiledRows) else decisions
        self.rows = self._decisions.rows
        self.first_step = first_step
        self.last_step = first_step - 1
        self.store = FeatureStore(keep)
        self.layout: Layout = []
        self._others = {} if others is None else others
        self._names: tuple[str, ...] = ()
        self._decided = (first_step - 1, False)
        self._mixer = ChannelMixer.of(self.rows)

    def forecasts(self, step: int, signal: Signal = no_signal) -> bool:
        """Whether ``step`` is forecast; decided when first asked.

        Args:
            step: the run's step.
            signal: measures inside the network what a gate needs; may raise SignalError.
        """
        if self._decided[0] != step:
            self._decided = step, self._decisions.forecasts(step - self.first_step, signal)
        return self._decided[1]

    def last_use(self, step: int) -> int | None:
        """The run's last step that needs the feature of ``step``; -1 for none, ``None`` while a gate decides."""
        if not isinstance(self._decisions, PlanDecisions):
            return None
        last = self.rows.last_uses.get(step - self.first_step)
        return -1 if last is None else last + self.first_step

    def why_not(self, step: int) -> str | None:
        """Reason why the forecast decided on for ``step`` must not be made, else ``None``."""
        reason = self._decisions.why_not()
        if reason is not None:
            return reason
        cross_terms = self.rows.sparse_cross_rows.get(step - self.first_step, ())
        if self._names:
            rows = [self._row(name, step) for name in dict.fromkeys(self._names)]
        else:
            rows = [self.rows.sparse_rows[step - self.first_step]]
        for used, _ in rows:
            if not used and not cross_terms:
                return "its row holds no weight"
        sources = rows[0][0] if len(rows) == 1 else sorted({source for used, _ in rows for source in used})
        if step - self.first_step in self.rows.start_weights:
            if START not in self.store.steps:
                return "it needs the network's first input, and none was given that has the output's shape"
            reason = self.store.why_unusable(START)
            if reason is not None:
                return reason.replace(f"the feature of step {START}", "the network's first input")
        reason = self.store.why_unusable(*sources)
        if reason is not None:
            return reason
        for other, used, _ in cross_terms:
            reason = self._why_not_of(other, used)
            if reason is not None:
                return reason
        return None

    def _why_not_of(self, other: str, used: Sequence[int]) -> str | None:
        """Return why the features that branch ``other`` computed at ``used`` cannot be used, else ``None``."""
        run = self._others.get(other)
        if run is None or run.first_step != self.first_step:
            return f"it needs features of {other}, which did not begin at the same step"
        for source in used:
            reason = run.store.why_unusable(source)
            if reason is not None:
                return f"it needs features of {other}: {reason}"
        if run.layout != self.layout:
            return f"it needs features of {other}, which have another shape, dtype or device"
        return None

    @property
    def note(self) -> str | None:
        """Why the plan's channel mixing or rows of parts are left out of the forecasts, else ``None``."""
        if self._mixer is not None and (self._mixer.unusable or self._mixer.missed):
            return self._mixer.unusable or self._mixer.missed
        if self.rows.plan.part_rows and not self._names:
            of_parts = ", ".join(self.rows.plan.part_rows)
            return f"the plan has rows for {of_parts}, but all {len(self.layout)} tensors follow the branch's rows"
        return None

    def accepts(self, tensors: Sequence[Tensor]) -> bool:
        """Whether a computed feature has the shapes, dtypes and devices of the branch's earlier ones."""
        return not self.layout or not tensors or same_layout(self.layout, layout_of(tensors))

    def first_inputs(self, step: int, inputs: Iterable[Any]) -> tuple[Tensor, ...]:
        """Copies of the network's inputs where the first sample is needed later: the network may write."""
        return copied_inputs(inputs) if step == self.first_step and START in self.rows.last_uses else ()

    def computed(
        self,
        step: int,
        tensors: Sequence[Tensor],
        names: Sequence[str] = (),
        scale: float = 1.0,
        inputs: Iterable[Any] = (),
    ) -> None:
        """Note the feature that the network computed at ``step``; kept only if a later row needs it.

        Args:
            step: the run's step.
            tensors: the feature; of the layout of the earlier ones (:meth:`accepts`).
            names: the network part of each tensor, if parts may have separate rows; by default the plan's rows of
                further tensors serve a feature that has as many.
            scale: the feature is ``scale`` times the tensors.
            inputs: what :meth:`first_inputs` gave before the network's call.
        """
        local = step - self.first_step
        if scale != 1.0 and (self._mixer is not None or not isinstance(self._decisions, PlanDecisions)):
            tensors, scale = [tensor * scale for tensor in tensors], 1.0  # mixers and gates read values
        self._decisions.computed(local, tensors, lambda: self._preview(step))
        self.layout = joined(self.layout, layout_of(tensors))
        if self._mixer is not None:
            self._mixer.check(tensors)
        if self._decisions.rows is not self.rows:
            self.rows = self._decisions.rows
            self._mixer = ChannelMixer.of(self.rows)
            self.store.drop([kept for kept in self.store.steps if self.rows.last_uses.get(kept, -1) < local])
        if tensors or names:
            self._names = tuple(names) or self.rows.names_of(len(tensors))
        self.last_step = step
        if local in self.rows.last_uses:
            self.store.put(local, tensors, scale)
        if local == 0 and tensors and START in self.rows.last_uses:
            start = first_sample(inputs, tensors[0])
            if start is not None:
                self.store.put(START, [start.to(tensors[0].device, tensors[0].dtype)])
        self._free(local)

    def forecast(self, step: int) -> Forecast:
        """The forecast feature of ``step``; frees what no later row needs."""
        forecast = self._forecast(step)
        self.last_step = step
        self._free(step - self.first_step)
        return forecast

    def _preview(self, step: int) -> list[Tensor] | None:
        """Return the forecast that would have replaced a computed step; ``None`` if none is possible."""
        if step - self.first_step not in self.rows.sparse_rows or self.why_not(step) is not None:
            return None
        return list(self._forecast(step))

    def _forecast(self, step: int) -> Forecast:
        borrowed: list[Summand] = []
        borrowed_weights: list[float] = []
        for other, used, weights in self.rows.sparse_cross_rows.get(step - self.first_step, ()):
            lent, scaled = self._others[other].store.terms(used, weights)
            borrowed += lent
            borrowed_weights += scaled
        if not self._names:
            kept, weights = self.store.terms(*self.rows.sparse_rows[step - self.first_step])
            features: list[Summand] = [*kept, *borrowed]
            weights = weights + borrowed_weights
            if self._mixer is not None:
                correction, share = self._mixer.correction(step - self.first_step, self.store)
                features, weights = [*features, *correction], weights + share
            parts = [(features, weights)] * len(features[0])
            if step - self.first_step in self.rows.start_weights:
                parts[0] = self._with_start(parts[0], step)
            return Forecast(parts)
        terms: dict[str, tuple[list[Summand], list[float]]] = {}
        for name in dict.fromkeys(self._names):
            kept, weights = self.store.terms(*self._row(name, step))
            lent = self.rows.of_part(name) is self.rows
            terms[name] = [*kept, *(borrowed if lent else ())], weights + (borrowed_weights if lent else [])
        parts = [terms[name] for name in self._names]
        if step - self.first_step in self.rows.start_weights and self.rows.of_part(self._names[0]) is self.rows:
            parts[0] = self._with_start(parts[0], step)
        return Forecast(parts)

    def _with_start(self, part: tuple[list[Summand], list[float]], step: int) -> tuple[list[Summand], list[float]]:
        """The summands and weights of the forecast's first tensor, and those of the run's first sample."""
        kept, weight = self.store.terms([START], [self.rows.start_weights[step - self.first_step]])
        return [*part[0], *kept], part[1] + weight

    def _row(self, name: str, step: int) -> tuple[list[int], list[float]]:
        """Return the computed steps in the forecast of the feature's part ``name``, and their weights.

        A part without weights, because it was zero where it was recorded, follows the branch's row.
        """
        local = step - self.first_step
        row = self.rows.of_part(name).sparse_rows[local]
        return row if row[0] else self.rows.sparse_rows[local]

    def _free(self, local: int) -> None:
        freed = self.rows.freed_after.get(local)
        if freed:
            self.store.drop(freed)
        for other, source in self.rows.released.get(local, ()):
            run = self._others.get(other)
            if run is not None and run.first_step == self.first_step:
                run.store.drop((source,))


def copied_inputs(inputs: Iterable[Any]) -> tuple[Tensor, ...]:
    """Copies of the dense tensors of real numbers among a network's inputs; arrays become tensors."""
    real = []
    for value in inputs:
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.dtype.itemsize <= 8:
            real.append(torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C")))
        elif isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided:
            real.append(value.detach().clone())
    return tuple(real)


def first_sample(inputs: Iterable[Tensor], output: Tensor) -> Tensor | None:
    """The first of a network's inputs that has the shape of its output, else ``None``."""
    fits = (tensor for tensor in inputs if tensor.shape == output.shape and tensor.is_meta == output.is_meta)
    return next(fits, None)
