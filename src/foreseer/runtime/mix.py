"""Channel mixing at run time.

It costs one matrix product per segment and computed feature, and one more summand per step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foreseer.plan import CompiledRows
from foreseer.plan.mixing import START, ChannelMixing, MixedSegment
from foreseer.runtime.store import FeatureStore


class ChannelMixer:
    """Corrections of one branch's forecasts; holds the correction of one segment at a time.

    Attributes:
        unusable: reason why forecasts use the rows alone; ``None`` if corrections are applied.
        missed: reason why a segment's correction was left out; ``None`` if none was.
    """

    def __init__(self, mixing: ChannelMixing) -> None:
        self.unusable: str | None = None
        self.missed: str | None = None
        self._mixing = mixing
        self._segment: MixedSegment | None = None
        self._correction: list[Tensor] = []

    @classmethod
    def of(cls, rows: CompiledRows) -> ChannelMixer | None:
        """The mixer of a branch's rows, ``None`` where they mix no channels."""
        return cls(rows.mixing) if rows.mixing is not None else None

    def check(self, tensors: Sequence[Tensor]) -> None:
        """Disable the corrections if a computed feature has another number of tensors or channels."""
        self.unusable = why_unusable(self._mixing, tensors)

    def correction(self, step: int, store: FeatureStore) -> tuple[list[list[Tensor]], list[float]]:
        """The correction of ``step``, as features to sum, and its share; both empty for an uncorrected step.

        Args:
            step: of the plan.
            store: the branch's features; those of the segment's sources must be usable.
        """
        segment, share = self._mixing.by_step.get(step, (None, 0.0))
        if segment is None or self.unusable is not None:
            self._segment, self._correction = None, []
            return [], []
        if segment is not self._segment:
            reasons = [store.why_unusable(source) for source in segment.sources]
            if any(reasons):
                words = next(filter(None, reasons)).replace(f"feature of step {START}", "network's first input")
                self.missed = f"channels are not mixed at steps {segment.steps}: {words}"
                return [], []
            features = [store.get(source)[0] for source in segment.sources]
            self._segment, self._correction = segment, [mixed(features, segment, self._mixing.axis)]
        found = [self._correction], [share]
        if step == segment.steps[-1]:
            self._segment, self._correction = None, []
        return found


def why_unusable(mixing: ChannelMixing, tensors: Sequence[Tensor]) -> str | None:
    """Why a feature's channels cannot be mixed, or ``None``."""
    if len(tensors) != 1:
        return f"channel mixing is for features of one tensor, and this one has {len(tensors)}"
    shape = tensors[0].shape
    least = 2 if mixing.axis == -1 else mixing.axis + 1
    if len(shape) < least or shape[mixing.axis] != mixing.channels:
        return (
            f"channel mixing is for {mixing.channels} channels at axis {mixing.axis}, and the feature has shape "
            f"{tuple(shape)}: its rows alone forecast"
        )
    return None


def mixed(features: Sequence[Tensor], segment: MixedSegment, axis: int) -> Tensor:
    r"""$\sum_j F_j M_j$ over the channels, in the features' shape and dtype, accumulated in float32.

    Args:
        features: K tensors of one shape, dtype and device, with C channels at ``axis``.
        segment: whose K matrices act on them.
        axis: of the channels.
    """
    first = features[0]
    matrices = torch.from_numpy(segment.matrices.copy()).to(first.device, first.dtype, non_blocking=True)
    total: Tensor | None = None
    for feature, matrix in zip(features, matrices, strict=True):
        product = (feature.movedim(axis, -1) @ matrix).to(torch.promote_types(first.dtype, torch.float32))
        total = product if total is None else total.add_(product)
    assert total is not None
    return total.movedim(-1, axis).to(first.dtype).contiguous()
