"""Ranges of blocks: what each changes while the network runs, and the network run without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.bypass import check_all_called, stand_in
from foreseer.attach.chain import Chain, NoChainError, Segment, given_tensors
from foreseer.attach.containers import flatten, rebuild
from foreseer.attach.hooks import Forward
from foreseer.attach.site import SiteError
from foreseer.site import Change


@dataclass(frozen=True)
class Layout:
    """Which calls of blocks are bypassed in which phase.

    Attributes:
        chain: the calls of all blocks.
        early: those bypassed at first.
        late: those bypassed later.
    """

    chain: Chain
    early: tuple[Segment, ...]
    late: tuple[Segment, ...]

    @classmethod
    def of(cls, chain: Chain, site: Change, alone: bool) -> Layout:
        """The layout of ``site`` on ``chain``; with ``alone`` each block is a segment.

        Raises:
            NoChainError: a range holds no block, or a block that has no change.
        """
        count = len(chain.links)
        found = []
        for low, high in (site.blocks, site.late or site.blocks):
            first, end = max(site.kept, int(low * count + 0.5)), int(high * count + 0.5)
            if first >= end:
                raise NoChainError(f"the range from {low:g} to {high:g} holds none of {count} blocks")
            found.append(chain.segments(first, end, alone))
        return cls(chain, *found)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, each once: a feature holds their changes in this order."""
        return tuple(dict.fromkeys((*self.early, *self.late)))

    def feature(self, changes: Mapping[Segment, Sequence[Tensor]], like: Tensor) -> list[Tensor]:
        """``changes`` in order, an empty tensor in place of each that is not among them."""
        parts = [changes.get(one, [like.new_empty(0)] * len(one.origins)) for one in self.segments]
        return [tensor for part in parts for tensor in part]

    def changes(self, feature: Sequence[Tensor], segments: Sequence[Segment]) -> dict[Segment, list[Tensor]]:
        """The parts of a feature that are of ``segments``; the others are not touched."""
        found: dict[Segment, list[Tensor]] = {}
        position = 0
        for one in self.segments:
            if one in segments:
                found[one] = [feature[position + index] for index in range(len(one.origins))]
            position += len(one.origins)
        return found


class Captured:
    """Lets the blocks run and keeps the changes that ``wanted`` segments of ``layout`` make.

    Attributes:
        called: the blocks called.
        lost: whether these are others than the layout's.
        changes: by segment, a tensor a stream.
        stand_ins: by call, for those within a segment.
    """

    def __init__(self, layout: Layout, wanted: Sequence[Segment]) -> None:
        self.called: list[nn.Module] = []
        self.lost = False
        self.changes: dict[Segment, list[Tensor]] = {}
        self.stand_ins: dict[int, Any] = {}
        self._layout = layout
        self._wanted = wanted
        self._entered: dict[Segment, list[Tensor]] = {}

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a block."""
        index = len(self.called)
        self.called.append(module)
        links = self._layout.chain.links
        self.lost = self.lost or index >= len(links) or links[index].module is not module
        if self.lost:
            return forward(*args, **kwargs)
        for segment in self._wanted:
            if segment.first == index:
                given = given_tensors(module, args, kwargs)
                self._entered[segment] = [given[name] for name in segment.origins if name in given]
                self.enters(segment, self._entered[segment])
        output = forward(*args, **kwargs)
        for segment in self._wanted:
            if segment.last == index:
                self.leaves(segment, self._entered.pop(segment), flatten(output))
        if any(segment.first <= index <= segment.last for segment in self._layout.segments):
            self.stand_ins[index] = stand_in(output)
        return output

    @property
    def complete(self) -> bool:
        """Whether all of the layout's blocks were called, and no others."""
        return not self.lost and len(self.called) == len(self._layout.chain.links)

    def enters(self, segment: Segment, streams: list[Tensor]) -> None:
        """Take note of what a segment is given."""

    def leaves(self, segment: Segment, before: list[Tensor], after: list[Tensor]) -> None:
        """Take note of what a segment made of what it was given."""
        if [one.shape for one in before] != [one.shape for one in after]:
            self.lost = True
        else:
            self.changes[segment] = [one - other for one, other in zip(after, before, strict=True)]


class Truth(Captured):
    """Keeps copies of what all segments give, and sees whether they leave what they are given as it was.

    Attributes:
        outputs: by segment.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout, layout.segments)
        self.outputs: dict[Segment, list[Tensor]] = {}
        self._copies: dict[Segment, list[Tensor]] = {}

    def enters(self, segment: Segment, streams: list[Tensor]) -> None:
        """Copy what a segment is given."""
        self._copies[segment] = [one.clone() for one in streams]

    def leaves(self, segment: Segment, before: list[Tensor], after: list[Tensor]) -> None:
        """Copy what it gives, and compare."""
        super().leaves(segment, before, after)
        self.outputs[segment] = [one.clone() for one in after]
        copies = self._copies.pop(segment)
        if not all(torch.equal(one, copy) for one, copy in zip(before, copies, strict=True)):
            raise NoChainError("its blocks write into their inputs")


class Skipped:
    """Runs the blocks outside of ``segments``; each segment adds its forecast change to what it is given.

    Within a segment, the blocks before the last give stand-ins.
    """

    def __init__(
        self,
        chain: Chain,
        segments: Sequence[Segment],
        stand_ins: Mapping[int, Any],
        changes: Mapping[Segment, Sequence[Tensor]],
    ) -> None:
        self.changes = changes
        self._chain = chain
        self._segments = segments
        self._stand_ins = stand_ins
        self._position = 0
        self._entered: list[Tensor] = []

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block's output, without running it where it lies in a segment."""
        index = self._position
        self._position += 1
        if index >= len(self._chain.links) or self._chain.links[index].module is not module:
            raise SiteError("the network called its blocks in another order than when it was last computed")
        segment = next((one for one in self._segments if one.first <= index <= one.last), None)
        if segment is None:
            return forward(*args, **kwargs)
        if index == segment.first:
            given = given_tensors(module, args, kwargs)
            self._entered = [given[name] for name in segment.origins if name in given]
        if index < segment.last:
            return self._stand_ins[index]
        entered, self._entered = self._entered, []
        return rebuild(self._stand_ins[index], iter(self.outputs(segment, entered)))

    def finish(self) -> None:
        """See that all blocks were called.

        Raises:
            SiteError: some were not.
        """
        check_all_called(self._position, self._chain.links)

    def outputs(self, segment: Segment, entered: list[Tensor]) -> list[Tensor]:
        """What a segment gives."""
        changes = self.changes[segment]
        if [one.shape for one in entered] != [one.shape for one in changes]:
            raise SiteError("a range of blocks was given other streams than when it was last computed")
        return [one + change for one, change in zip(entered, changes, strict=True)]


class Replayed(Skipped):
    """The same with the true outputs themselves in place of changes."""

    def outputs(self, segment: Segment, entered: list[Tensor]) -> list[Tensor]:
        """What a segment gave."""
        return list(self.changes[segment])
