"""The last-block site: the blocks are skipped, the head runs on the forecast hidden state and the current timestep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.bypass import WRONG_PLACE, Bypass, Capture, Replay, check_all_called, stand_in
from foreseer.attach.containers import flatten
from foreseer.attach.hooks import Interception
from foreseer.attach.proof import Unproven, same_bits, unproven
from foreseer.attach.seam import Seam, SeamFinder
from foreseer.attach.site import Forward, NoFeatureError
from foreseer.attach.tracker import TrackedBranch


class _Captured(Capture):
    """The blocks' shapes and the feature."""

    def __init__(self) -> None:
        super().__init__(stand_in)
        self.feature: list[Tensor] = []

    def at_head(self, index: int, value: Tensor) -> Tensor:
        """Take the feature of a head at its first call."""
        if len(self.feature) == index:
            self.feature.append(value)
        return value


class _Skipped(Replay):
    """Stand-ins for the blocks, the feature for the heads."""

    def __init__(self, calls: list[tuple[nn.Module, Any]], feature: Sequence[Tensor]) -> None:
        super().__init__(calls)
        self.feature = feature
        self._reached: set[int] = set()

    def at_head(self, index: int, value: Tensor) -> Tensor:
        """The feature of a head."""
        self._reached.add(index)
        return self.feature[index]

    def finish(self) -> None:
        """See that all blocks and heads were called."""
        super().finish()
        check_all_called(len(self._reached), self.feature)


class LastBlockSite:
    """The feature is what the blocks hand to the head: the first argument of each head.

    The seam is found on the first computed call and put to the proof there: the network is run again with its blocks
    skipped and its own feature given to the head, and the output must be the same to the last bit. A network
    without such a seam is computed at every step, and the record says so.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._seam: Seam | None = None
        self._no_seam: Unproven | None = None
        self._blocks = Bypass(model)
        self._hooks: list[Interception] = []
        self._lock = threading.RLock()

    def compute(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], branch: TrackedBranch
    ) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is what its blocks gave."""
        with self._lock:
            if self._seam is None and self._no_seam is None:
                self._find_seam(forward, args, kwargs)
            seam, no_seam = self._seam, self._no_seam  # another thread may detach while the network runs
        if no_seam is not None:
            raise no_seam.raised_on(forward(*args, **kwargs))
        with self._blocks.handled_by(_Captured()) as captured:
            output = forward(*args, **kwargs)
        if seam is None or len(captured.feature) != len(seam.heads):
            raise NoFeatureError("the head was not called as when the seam was found", output)
        self._blocks.check_in_place(output)
        branch.memory["stand_ins"] = captured.calls
        return output, captured.feature

    def forecast(
        self,
        forward: Forward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        branch: TrackedBranch,
        feature: Sequence[Tensor],
    ) -> Any:
        """Run embedders and head around the skipped blocks."""
        with self._blocks.handled_by(_Skipped(branch.memory["stand_ins"], feature)) as skipped:
            output = forward(*args, **kwargs)
        skipped.finish()
        return output

    def detach(self) -> None:
        """Take the hooks off blocks and heads."""
        while self._hooks:
            self._hooks[-1].remove()
            self._hooks.pop()
        self._blocks.remove()
        self._seam = self._no_seam = None

    def _find_seam(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        finder = SeamFinder(self._model)
        with finder:
            expected = forward(*args, **kwargs)
        candidates = list(finder.candidates())
        try:
            for seam in candidates:
                if self._proves_exact(seam, forward, args, kwargs, expected):
                    return
        except BaseException:
            self.detach()  # an unproven seam must not outlive an interrupted proof
            raise
        self.detach()
        reason = (
            f"no seam between blocks and head of {type(self._model).__name__} reproduces its output; "
            "use site='output' for this model"
        )
        self._no_seam = unproven(reason, lambda: forward(*args, **kwargs)) if candidates else Unproven(reason)

    def _install(self, seam: Seam) -> None:
        self.detach()
        self._seam = seam
        self._blocks.install(seam.blocks)
        for index, head in enumerate(seam.heads):
            self._hooks.append(Interception(head, self._before_head(index)))
            self._hooks[-1].install()

    def _before_head(self, index: int) -> Any:
        def before_head(forward: Forward, *args: Any, **kwargs: Any) -> Any:
            handler = self._blocks.handler
            if isinstance(handler, _Captured | _Skipped):
                args = (handler.at_head(index, args[0]), *args[1:])
            return forward(*args, **kwargs)

        return before_head

    def _proves_exact(
        self, seam: Seam, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any
    ) -> bool:
        """Whether the network, its blocks skipped, gives the same bits; if so, with the fewest and earliest heads.

        A later unit of the head (a projection after the modulated norm) also takes as many values as a block gives.
        Were it given a forecast too, the current timestep would not reach it.
        """
        self._install(seam)
        try:
            with self._blocks.handled_by(_Captured()) as captured:
                again = forward(*args, **kwargs)
            features = dict(zip(seam.heads, (tensor.clone() for tensor in captured.feature), strict=True))
            truth = flatten(expected)

            def exact(heads: tuple[nn.Module, ...]) -> bool:
                self._install(Seam(seam.blocks, heads))
                with self._blocks.handled_by(_Skipped(captured.calls, [features[head] for head in heads])):
                    return same_bits(truth, flatten(forward(*args, **kwargs)))

            heads = seam.heads
            if not (same_bits(truth, flatten(again)) and exact(heads)):
                return False
            for head in reversed(seam.heads):
                fewer = tuple(other for other in heads if other is not head)
                heads = fewer if fewer and _tries(exact, fewer) else heads
            self._install(Seam(seam.blocks, heads))
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
