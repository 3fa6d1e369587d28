"""The residual site: forecast the change that blocks make to their input; add it to the current input."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foreseer.attach.network.block_trace import BlockTracer, NoResidualError, Segment
from foreseer.attach.network.boundary import find_blocks
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import UnknownContainerError, flatten
from foreseer.attach.network.interceptor import WRONG_PLACE, Interceptor
from foreseer.attach.network.site_errors import NoFeatureError
from foreseer.attach.network.verification import Unsupported, cannot_rehearse, copied, same_bits, unsupported
from foreseer.attach.sites.segments import (
    OutputRecorder,
    OutputReplay,
    ResidualRecorder,
    ResidualReplay,
    SegmentLayout,
)
from foreseer.site import Residual

if TYPE_CHECKING:
    from foreseer.attach.run.tracker import TrackedBranch


class ResidualSite:
    """The feature is the residual of each stream over each segment of the ranges: output minus input.

    The blocks are traced on the first computed call, and the ranges verified there: the network runs again with its
    segments skipped and their true outputs in place, and its output must be equal to the last bit. (A true residual
    added to its input equals the true output to rounding.) Where skipping whole segments does not reproduce the
    output, each block is a segment. A network whose blocks have no residual is computed at every step, and the record
    says so.

    Args:
        model: the denoiser.
        site: the ranges.
    """

    def __init__(self, model: nn.Module, site: Residual) -> None:
        self._model = model
        self._site = site
        self._blocks = Interceptor(model)
        self._installed = False
        self._layouts: dict[tuple[nn.Module, ...], SegmentLayout | Unsupported] = {}  # by the blocks called
        self._latest: SegmentLayout | Unsupported | None = None
        self._lock = threading.RLock()

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is the residuals, empty where no later step needs them."""
        layout = branch.memory.get("layout") or self._latest or self._trace(call)
        if isinstance(layout, Unsupported):
            raise layout.raised_on(call.run())
        recorder, output = self._record(layout, call, branch)
        if not recorder.complete:  # a branch that calls other blocks
            layout = self._layouts.get(tuple(recorder.called)) or self._trace(call)
            if isinstance(layout, Unsupported):
                raise layout.raised_on(output)
            recorder, output = self._record(layout, call, branch)
            if not recorder.complete:
                raise NoFeatureError("the network calls its blocks in another order each time", output)
        self._blocks.check_in_place(output)
        if branch.memory.setdefault("layout", layout) is not layout:
            raise NoFeatureError("the network called other blocks than at the step computed before", output)
        branch.memory.update(layout=layout, placeholders=recorder.placeholders)
        return output, layout.feature(recorder.residuals, like=next(iter(recorder.residuals.values()))[0])

    def forecast(self, call: NetworkCall, branch: TrackedBranch, feature: Sequence[Tensor]) -> Any:
        """Run everything but the range of this step's phase."""
        layout: SegmentLayout = branch.memory["layout"]
        segments = layout.early if self._is_early(branch, branch.run.last_step) else layout.late
        residuals = layout.residuals(feature, segments)
        replay = ResidualReplay(layout.trace, segments, branch.memory["placeholders"], residuals)
        with self._blocks.handled_by(replay):
            output = call.rehearse()
        replay.finish()
        return output

    def detach(self) -> None:
        """Restore the blocks."""
        self._blocks.remove()
        self._installed = False
        self._layouts = {}
        self._latest = None

    def _is_early(self, branch: TrackedBranch, step: int) -> bool:
        return step < self._site.boundary * branch.steps

    def _wanted(self, layout: SegmentLayout, branch: TrackedBranch) -> Sequence[Segment]:
        """Return the segments to record: those of this step's phase, and those of later steps that need them.

        At an early step, a late step that uses the feature needs the late segments too. Under a gate it is not yet
        decided which steps will use it, so all segments are recorded.
        """
        step = branch.run.last_step + 1
        last_use = branch.run.last_use(step)
        if last_use is None:
            return layout.segments
        if not self._is_early(branch, step):
            return layout.late
        return layout.early if self._is_early(branch, last_use) else layout.segments

    def _record(self, layout: SegmentLayout, call: NetworkCall, branch: TrackedBranch) -> tuple[ResidualRecorder, Any]:
        with self._blocks.handled_by(ResidualRecorder(layout, self._wanted(layout, branch))) as recorder:
            output = call.run()
        return recorder, output

    def _trace(self, call: NetworkCall) -> SegmentLayout | Unsupported:
        """Trace a network on its first call; return its segments, or why the site is unsupported."""
        with self._lock:
            if not self._installed:
                self._blocks.install(find_blocks(self._model))
                self._installed = True
            refused = cannot_rehearse(call)
            if refused is not None:
                self._latest = refused
                return refused
            with self._blocks.handled_by(BlockTracer()) as tracer:
                output = call.rehearse()
            self._blocks.check_in_place(output)
            trace = tracer.trace()
            reason = "skipping them does not reproduce its output"
            result: SegmentLayout | Unsupported | None = None
            try:
                expected = copied(output)
                layouts = (SegmentLayout.of(trace, self._site, alone) for alone in (False, True))
                result = next((layout for layout in layouts if self._reproduces(layout, call, expected)), None)
            except (NoResidualError, UnknownContainerError) as error:
                reason = str(error)
            if result is None:
                kind = type(self._model).__name__
                reason = f"{kind} has no range of blocks with a residual: {reason}; use site='output' for this model"
                result = unsupported(reason, call.rehearse)
            self._layouts[trace.modules] = self._latest = result
            return result

    def _reproduces(self, layout: SegmentLayout, call: NetworkCall, expected: list[Tensor]) -> bool:
        """Return whether the network returns the same bits when each phase's segments are skipped.

        A skipped segment returns its recorded true outputs.
        """
        try:
            with self._blocks.handled_by(OutputRecorder(layout)) as recorder:
                again = flatten(call.rehearse())
            if not (recorder.complete and same_bits(expected, again)):
                return False
            for segments in dict.fromkeys((layout.early, layout.late)):
                with self._blocks.handled_by(
                    OutputReplay(layout.trace, segments, recorder.placeholders, recorder.outputs)
                ):
                    if not same_bits(expected, flatten(call.rehearse())):
                        return False
        except (NoResidualError, torch.OutOfMemoryError):
            raise
        except WRONG_PLACE:
            return False
        return True
