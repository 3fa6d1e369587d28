"""Which modules of a block its output depends on, and which only feed these."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from foreseer.attach.bypass import WRONG_PLACE, Bypass, Capture, Replay
from foreseer.attach.containers import flatten, rebuild
from foreseer.attach.hooks import Forward
from foreseer.attach.module_finder import Found
from foreseer.attach.proof import same_bits


def judge(found: Found, bypass: Bypass, run: Any, running: Collection[nn.Module] = ()) -> set[nn.Module]:
    """The modules whose outputs their block's own depends on; the others only feed them.

    Each block is run again with its modules bypassed by their own outputs, but for one, which gives no numbers. If
    nothing changes, that one is idle while the others are bypassed. Those in ``running`` are not bypassed.
    """
    needed = {block for block in found.blocks if block in found.names}
    hooks: list[torch.utils.hooks.RemovableHandle] = []
    capture = Capture(lambda output: output)

    def forget(*_: Any) -> None:
        capture.calls.clear()

    def try_without(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        truth, calls = flatten(output), list(capture.calls)
        capture.calls.clear()
        for index, (module, given) in enumerate(calls):
            if module in needed:
                continue
            without = [*calls[:index], (module, _no_numbers(given)), *calls[index + 1 :]]
            try:
                with bypass.handled_by(_Without(without, module, running)):
                    if not same_bits(truth, flatten(block.forward(*args, **kwargs))):
                        needed.add(module)
            except torch.OutOfMemoryError:
                raise
            except WRONG_PLACE:
                needed.add(module)

    try:
        for block in set(found.blocks) - needed:
            hooks.append(block.register_forward_pre_hook(forget))
            hooks.append(block.register_forward_hook(try_without, with_kwargs=True))
        with bypass.handled_by(capture):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return needed


class _Without(Replay):
    """Gives outputs, but that some modules run: all of them but the one that gives no numbers."""

    def __init__(self, calls: list[tuple[nn.Module, Any]], silent: nn.Module, running: Collection[nn.Module]) -> None:
        super().__init__(calls)
        self._silent = silent
        self._running = running

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The unit's output."""
        output = super().__call__(module, forward, args, kwargs)
        return forward(*args, **kwargs) if module in self._running and module is not self._silent else output


def _no_numbers(output: Any) -> Any:
    return rebuild(output, (tensor.new_full((), torch.nan).expand(tensor.shape) for tensor in flatten(output)))
