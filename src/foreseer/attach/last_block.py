"""The last-block site: the blocks are skipped, the head runs on the forecast hidden state and the current timestep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers.hooks import ModelHook
from torch import Tensor, nn

from foreseer.attach.containers import UnknownContainerError, flatten, rebuild
from foreseer.attach.hooks import add_hook, refresh_contexts, remove_hook
from foreseer.attach.seam import Seam, SeamFinder
from foreseer.attach.site import Forward, NoFeatureError, SiteError
from foreseer.attach.tracker import TrackedBranch

Mode = Literal["pass", "capture", "bypass"]

# What a network may raise when it goes on from the wrong place.
_NOT_THIS_SEAM = (SiteError, UnknownContainerError, RuntimeError, IndexError, TypeError, ValueError)


@dataclass
class _Passage:
    """What happens at the seam during one forward pass.

    Attributes:
        mode: let pass, capture the feature and the blocks' shapes, or bypass the blocks.
        stand_ins: per block call, an output of the right shapes that takes no memory.
        feature: one tensor a head.
        position: how many block calls there were.
    """

    mode: Mode = "pass"
    stand_ins: list[tuple[nn.Module, Any]] = field(default_factory=list)
    feature: list[Tensor] = field(default_factory=list)
    position: int = 0


class _BlockHook(ModelHook):
    def __init__(self, site: LastBlockSite) -> None:
        super().__init__()
        self._site = site

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        passage = self._site.passage
        assert self.fn_ref.original_forward is not None
        if passage.mode == "pass":
            return self.fn_ref.original_forward(*args, **kwargs)
        if passage.mode == "bypass":
            return self._site.stand_in(module)
        output = self.fn_ref.original_forward(*args, **kwargs)
        passage.stand_ins.append((module, _stand_in_for(output)))
        return output


class LastBlockSite:
    """The feature is what the blocks hand to the head: the first argument of each head.

    The seam is found on the first computed call and put to the proof there: the network is run again with its blocks
    skipped and its own feature given to the head, and the output must be the same to the last bit. A network
    without such a seam is computed at every step, and the record says so.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._seam: Seam | None = None
        self._no_seam: str | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._threads = threading.local()
        self._lock = threading.Lock()

    @property
    def passage(self) -> _Passage:
        """This thread's state at the seam."""
        passage = getattr(self._threads, "passage", None)
        if passage is None:
            passage = self._threads.passage = _Passage()
        return passage

    def compute(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], branch: TrackedBranch
    ) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is what its blocks gave."""
        with self._lock:
            if self._seam is None and self._no_seam is None:
                self._find_seam(forward, args, kwargs)
        if self._no_seam is not None:
            raise NoFeatureError(self._no_seam, forward(*args, **kwargs))
        with self._at_seam(_Passage("capture")) as passage:
            output = forward(*args, **kwargs)
        assert self._seam is not None
        if len(passage.feature) != len(self._seam.heads):
            raise NoFeatureError("the head was not called as when the seam was found", output)
        branch.memory["stand_ins"] = passage.stand_ins
        return output, passage.feature

    def forecast(
        self,
        forward: Forward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        branch: TrackedBranch,
        feature: list[Tensor],
    ) -> Any:
        """Run embedders and head around the skipped blocks."""
        with self._at_seam(_Passage("bypass", branch.memory["stand_ins"], list(feature))):
            return forward(*args, **kwargs)

    def stand_in(self, module: nn.Module) -> Any:
        """The output of a skipped block: right in shape, without content."""
        passage = self.passage
        if passage.position >= len(passage.stand_ins) or passage.stand_ins[passage.position][0] is not module:
            raise SiteError("the network called its blocks in another order than when it was last computed")
        passage.position += 1
        return passage.stand_ins[passage.position - 1][1]

    def detach(self) -> None:
        """Take the hooks off blocks and heads."""
        while self._hooks:
            self._hooks.pop().remove()
        for block in self._seam.blocks if self._seam is not None else ():
            remove_hook(block)
        self._seam = None
        refresh_contexts(self._model)

    def _find_seam(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        finder = SeamFinder(self._model)
        with finder:
            expected = forward(*args, **kwargs)
        try:
            for seam in finder.candidates():
                if self._proves_exact(seam, forward, args, kwargs, expected):
                    return
        except BaseException:
            self.detach()  # an unproven seam must not outlive an interrupted proof
            raise
        self.detach()
        self._no_seam = (
            f"no seam between blocks and head of {type(self._model).__name__} reproduces its output; "
            "use site='output' for this model"
        )

    def _install(self, seam: Seam) -> None:
        self.detach()
        self._seam = seam
        for block in seam.blocks:
            add_hook(block, _BlockHook(self))
        for index, head in enumerate(seam.heads):
            self._hooks.append(head.register_forward_pre_hook(self._head_hook(index)))
        refresh_contexts(self._model)

    def _head_hook(self, index: int) -> Any:
        def before_head(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            passage = self.passage
            if passage.mode == "capture" and len(passage.feature) == index:
                passage.feature.append(args[0])
            elif passage.mode == "bypass":
                return (passage.feature[index], *args[1:])
            return None

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
            with self._at_seam(_Passage("capture")) as captured:
                again = forward(*args, **kwargs)
            features = dict(zip(seam.heads, (tensor.clone() for tensor in captured.feature), strict=True))
            truth = flatten(expected)

            def exact(heads: tuple[nn.Module, ...]) -> bool:
                self._install(Seam(seam.blocks, heads))
                with self._at_seam(_Passage("bypass", captured.stand_ins, [features[head] for head in heads])):
                    return _equal(truth, flatten(forward(*args, **kwargs)))

            heads = seam.heads
            if not (_equal(truth, flatten(again)) and exact(heads)):
                return False
            for head in reversed(seam.heads):
                fewer = tuple(other for other in heads if other is not head)
                heads = fewer if fewer and _tries(exact, fewer) else heads
            self._install(Seam(seam.blocks, heads))
        except torch.OutOfMemoryError:
            raise
        except _NOT_THIS_SEAM:
            return False
        return True

    @contextmanager
    def _at_seam(self, passage: _Passage) -> Iterator[_Passage]:
        self._threads.passage = passage
        try:
            yield passage
        finally:
            self._threads.passage = _Passage()


def _tries(exact: Callable[[tuple[nn.Module, ...]], bool], heads: tuple[nn.Module, ...]) -> bool:
    try:
        return exact(heads)
    except _NOT_THIS_SEAM:
        return False


def _equal(truth: list[Tensor], found: list[Tensor]) -> bool:
    return len(truth) == len(found) and all(torch.equal(a, b) for a, b in zip(truth, found, strict=True))


def _stand_in_for(output: Any) -> Any:
    """``output`` with every tensor replaced by a zero spread over its shape."""
    zeros = (tensor.new_zeros(()).expand(tensor.shape) for tensor in flatten(output))
    return rebuild(output, zeros)
