"""The last-block site: forecast the last hidden state, skip the blocks and run the head.

The head receives the forecast and the current timestep.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foreseer.attach.interception import Forward, Interception
from foreseer.attach.network.boundary import BoundaryFinder, HeadBoundary
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import UnknownContainerError, flatten
from foreseer.attach.network.interceptor import (
    WRONG_PLACE,
    Capture,
    Interceptor,
    Replay,
    check_all_called,
    placeholder,
)
from foreseer.attach.network.site_errors import NoFeatureError
from foreseer.attach.network.verification import Unsupported, cannot_rehearse, copied, same_bits, unsupported

if TYPE_CHECKING:
    from foreseer.attach.run.tracker import TrackedBranch


class _HeadCapture(Capture):
    """Handler that runs the blocks and keeps their placeholders and the feature."""

    def __init__(self) -> None:
        super().__init__(placeholder)
        self.feature: list[Tensor] = []

    def at_head(self, index: int, value: Tensor) -> Tensor:
        """Keep the input of a head's first call."""
        if len(self.feature) == index:
            self.feature.append(value)
        return value


class _HeadReplay(Replay):
    """Handler that returns placeholders for the blocks and passes the feature to the heads."""

    def __init__(self, calls: list[tuple[nn.Module, Any]], feature: Sequence[Tensor]) -> None:
        super().__init__(calls)
        self.feature = feature
        self._reached: set[int] = set()

    def at_head(self, index: int, value: Tensor) -> Tensor:
        """The feature of a head."""
        self._reached.add(index)
        return self.feature[index]

    def finish(self) -> None:
        """Check that all blocks and heads were called."""
        super().finish()
        check_all_called(len(self._reached), self.feature)


class LastBlockSite:
    """The feature is what the blocks pass to the head: the first argument of each head.

    The boundary between blocks and head is found on the first computed call and verified there: the network runs again
    with its blocks skipped and its own feature given to the head, and the output must be equal to the last bit. A
    network without such a boundary is computed at every step, and the record says so.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._boundary: HeadBoundary | None = None
        self._unsupported: Unsupported | None = None
        self._blocks = Interceptor(model)
        self._hooks: list[Interception] = []
        self._lock = threading.RLock()

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is what its blocks returned."""
        with self._lock:
            if self._boundary is None and self._unsupported is None:
                self._find_boundary(call)
            boundary, refused = self._boundary, self._unsupported  # another thread may detach while the network runs
        if refused is not None:
            raise refused.raised_on(call.run())
        with self._blocks.handled_by(_HeadCapture()) as captured:
            output = call.run()
        if boundary is None or len(captured.feature) != len(boundary.heads):
            raise NoFeatureError("the head was not called as when the boundary was found", output)
        self._blocks.check_in_place(output)
        branch.memory["placeholders"] = captured.calls
        return output, captured.feature

    def forecast(self, call: NetworkCall, branch: TrackedBranch, feature: Sequence[Tensor]) -> Any:
        """Run embedders and head around the skipped blocks."""
        with self._blocks.handled_by(_HeadReplay(branch.memory["placeholders"], feature)) as skipped:
            output = call.rehearse()
        skipped.finish()
        return output

    def detach(self) -> None:
        """Restore blocks and heads."""
        while self._hooks:
            self._hooks[-1].remove()
            self._hooks.pop()
        self._blocks.remove()
        self._boundary = self._unsupported = None

    def _find_boundary(self, call: NetworkCall) -> None:
        refused = cannot_rehearse(call)
        if refused is not None:
            self._unsupported = refused
            return
        finder = BoundaryFinder(self._model)
        with finder:
            output = call.rehearse()
        candidates = list(finder.candidates())
        try:
            expected = copied(output)
            for boundary in candidates:
                if self._reproduces(boundary, call, expected):
                    return
        except UnknownContainerError:
            candidates = []
        except BaseException:
            self.detach()  # an unverified boundary must not outlive an interrupted verification
            raise
        self.detach()
        reason = (
            f"no boundary between blocks and head of {type(self._model).__name__} reproduces its output; "
            "use site='output' for this model"
        )
        self._unsupported = unsupported(reason, call.rehearse) if candidates else Unsupported(reason)

    def _install(self, boundary: HeadBoundary) -> None:
        self.detach()
        self._boundary = boundary
        self._blocks.install(boundary.blocks)
        for index, head in enumerate(boundary.heads):
            self._hooks.append(Interception(head, self._before_head(index)))
            self._hooks[-1].install()

    def _before_head(self, index: int) -> Any:
        def before_head(forward: Forward, *args: Any, **kwargs: Any) -> Any:
            handler = self._blocks.handler
            if isinstance(handler, _HeadCapture | _HeadReplay):
                args = (handler.at_head(index, args[0]), *args[1:])
            return forward(*args, **kwargs)

        return before_head

    def _reproduces(self, boundary: HeadBoundary, call: NetworkCall, expected: list[Tensor]) -> bool:
        """Return whether the network returns the same bits with its blocks skipped; if so, install the heads.

        Heads that are not needed for equal bits are removed, the last first. A later unit of the head (a projection
        after the modulated norm) may take as many values as a block returns; if it received the forecast too, the
        current timestep would not affect its input.
        """
        self._install(boundary)
        try:
            with self._blocks.handled_by(_HeadCapture()) as captured:
                again = call.rehearse()
            features = dict(zip(boundary.heads, (tensor.clone() for tensor in captured.feature), strict=True))

            def exact(heads: tuple[nn.Module, ...]) -> bool:
                self._install(HeadBoundary(boundary.blocks, heads))
                with self._blocks.handled_by(_HeadReplay(captured.calls, [features[head] for head in heads])):
                    return same_bits(expected, flatten(call.rehearse()))

            heads = boundary.heads
            if not (same_bits(expected, flatten(again)) and exact(heads)):
                return False
            for head in reversed(boundary.heads):
                fewer = tuple(other for other in heads if other is not head)
                heads = fewer if fewer and _tries(exact, fewer) else heads
            self._install(HeadBoundary(boundary.blocks, heads))
        except torch.OutOfMemoryError:
            raise
        except WRONG_PLACE:
            return False
        return True


def _tries(exact: Callable[[tuple[nn.Module, ...]], bool], heads: tuple[nn.Module, ...]) -> bool:
    try:
        return exact(heads)
    except WRONG_PLACE:
        return False
