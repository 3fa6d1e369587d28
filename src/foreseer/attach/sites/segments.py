"""Segments of blocks: the residual of each while the network runs, and the network run without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.network.block_trace import BlockTrace, NoResidualError, Segment, tensor_arguments
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import flatten, rebuild
from foreseer.attach.network.interceptor import check_all_called, placeholder
from foreseer.attach.network.site_errors import SiteError
from foreseer.site import Residual


@dataclass(frozen=True)
class SegmentLayout:
    """Which calls of blocks are skipped in which phase of a run.

    Attributes:
        trace: the calls of all blocks.
        early: the segments skipped at first.
        late: the segments skipped later.
    """

    trace: BlockTrace
    early: tuple[Segment, ...]
    late: tuple[Segment, ...]

    @classmethod
    def of(cls, trace: BlockTrace, site: Residual, alone: bool) -> SegmentLayout:
        """The layout of ``site`` on ``trace``; with ``alone`` each block is a segment.

        Raises:
            NoResidualError: a range holds no block, or a block without a residual.
        """
        count = len(trace.calls)
        phases = []
        for low, high in (site.blocks, site.late or site.blocks):
            first, end = max(site.kept, int(low * count + 0.5)), int(high * count + 0.5)
            if first >= end:
                raise NoResidualError(f"the range from {low:g} to {high:g} holds none of {count} blocks")
            phases.append(trace.segments(first, end, alone))
        return cls(trace, *phases)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, each once: a feature holds their residuals in this order."""
        return tuple(dict.fromkeys((*self.early, *self.late)))

    def feature(self, residuals: Mapping[Segment, Sequence[Tensor]], like: Tensor) -> list[Tensor]:
        """``residuals`` in order, with an empty tensor for each that is missing."""
        parts = [residuals.get(segment, [like.new_empty(0)] * len(segment.origins)) for segment in self.segments]
        return [tensor for part in parts for tensor in part]

    def residuals(self, feature: Sequence[Tensor], segments: Sequence[Segment]) -> dict[Segment, list[Tensor]]:
        """The parts of a feature that belong to ``segments``; the others are not read."""
        residuals: dict[Segment, list[Tensor]] = {}
        position = 0
        for segment in self.segments:
            if segment in segments:
                residuals[segment] = [feature[position + index] for index in range(len(segment.origins))]
            position += len(segment.origins)
        return residuals


class ResidualRecorder:
    """Handler that runs the blocks and keeps the residuals of the ``wanted`` segments of ``layout``.

    Attributes:
        called: the blocks called.
        lost: whether these are not the layout's.
        residuals: by segment, one tensor per stream.
        placeholders: by call, for the blocks within a segment.
    """

    def __init__(self, layout: SegmentLayout, wanted: Sequence[Segment]) -> None:
        self.called: list[nn.Module] = []
        self.lost = False
        self.residuals: dict[Segment, list[Tensor]] = {}
        self.placeholders: dict[int, Any] = {}
        self._layout = layout
        self._wanted = wanted
        self._entered: dict[Segment, list[Tensor]] = {}

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """Run a block."""
        index = len(self.called)
        self.called.append(module)
        calls = self._layout.trace.calls
        self.lost = self.lost or index >= len(calls) or calls[index].module is not module
        if self.lost:
            return call.run()
        for segment in self._wanted:
            if segment.first == index:
                arguments = tensor_arguments(module, call)
                self._entered[segment] = [arguments[name] for name in segment.origins if name in arguments]
                self.enters(segment, self._entered[segment])
        output = call.run()
        for segment in self._wanted:
            if segment.last == index:
                self.leaves(segment, self._entered.pop(segment), flatten(output))
        if any(segment.first <= index <= segment.last for segment in self._layout.segments):
            self.placeholders[index] = placeholder(output)
        return output

    @property
    def complete(self) -> bool:
        """Whether all of the layout's blocks were called, and no others."""
        return not self.lost and len(self.called) == len(self._layout.trace.calls)

    def enters(self, segment: Segment, streams: list[Tensor]) -> None:
        """Note what a segment is given."""

    def leaves(self, segment: Segment, before: list[Tensor], after: list[Tensor]) -> None:
        """Note what a segment returns."""
        if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
            self.lost = True
        else:
            self.residuals[segment] = [new - old for new, old in zip(after, before, strict=True)]


class OutputRecorder(ResidualRecorder):
    """Also keeps copies of what all segments return, and checks that they leave their inputs unchanged.

    Attributes:
        outputs: by segment.
    """

    def __init__(self, layout: SegmentLayout) -> None:
        super().__init__(layout, layout.segments)
        self.outputs: dict[Segment, list[Tensor]] = {}
        self._copies: dict[Segment, list[Tensor]] = {}

    def enters(self, segment: Segment, streams: list[Tensor]) -> None:
        """Copy what a segment is given."""
        self._copies[segment] = [tensor.clone() for tensor in streams]

    def leaves(self, segment: Segment, before: list[Tensor], after: list[Tensor]) -> None:
        """Copy what a segment returns, and compare its inputs with their copies."""
        super().leaves(segment, before, after)
        self.outputs[segment] = [tensor.clone() for tensor in after]
        copies = self._copies.pop(segment)
        if not all(torch.equal(tensor, copy) for tensor, copy in zip(before, copies, strict=True)):
            raise NoResidualError("its blocks write into their inputs")


class ResidualReplay:
    """Handler that skips the blocks of ``segments`` and adds forecast residuals to the segments' inputs.

    Blocks outside the segments run. Within a segment, the blocks before the last return placeholders.
    """

    def __init__(
        self,
        trace: BlockTrace,
        segments: Sequence[Segment],
        placeholders: Mapping[int, Any],
        residuals: Mapping[Segment, Sequence[Tensor]],
    ) -> None:
        self.residuals = residuals
        self._trace = trace
        self._segments = segments
        self._placeholders = placeholders
        self._position = 0
        self._entered: list[Tensor] = []

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """A block's output; the block does not run if it lies in a segment."""
        index = self._position
        self._position += 1
        if index >= len(self._trace.calls) or self._trace.calls[index].module is not module:
            raise SiteError("the network called its blocks in another order than when it was last computed")
        segment = next((each for each in self._segments if each.first <= index <= each.last), None)
        if segment is None:
            return call.run()
        if index == segment.first:
            arguments = tensor_arguments(module, call)
            self._entered = [arguments[name] for name in segment.origins if name in arguments]
        if index < segment.last:
            return self._placeholders[index]
        entered, self._entered = self._entered, []
        return rebuild(self._placeholders[index], iter(self.outputs(segment, entered)))

    def finish(self) -> None:
        """Check that all blocks were called.

        Raises:
            SiteError: some were not.
        """
        check_all_called(self._position, self._trace.calls)

    def outputs(self, segment: Segment, entered: list[Tensor]) -> list[Tensor]:
        """What a segment returns."""
        residuals = self.residuals[segment]
        if [tensor.shape for tensor in entered] != [tensor.shape for tensor in residuals]:
            raise SiteError("a range of blocks was given other streams than when it was last computed")
        return [tensor + residual for tensor, residual in zip(entered, residuals, strict=True)]


class OutputReplay(ResidualReplay):
    """The same with the true outputs in place of residuals."""

    def outputs(self, segment: Segment, entered: list[Tensor]) -> list[Tensor]:
        """What a segment returned."""
        return list(self.residuals[segment])
