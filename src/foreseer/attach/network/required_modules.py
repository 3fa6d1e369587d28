"""Which modules of a block its output depends on, and which only feed these."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from foreseer.attach.network.boundary import is_elsewhere
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import flatten, rebuild
from foreseer.attach.network.interceptor import WRONG_PLACE, Capture, Interceptor, Replay
from foreseer.attach.network.module_finder import FoundModules
from foreseer.attach.network.verification import same_bits


def required_modules(
    found: FoundModules, interceptor: Interceptor, run: Callable[[], Any], running: Collection[nn.Module] = ()
) -> set[nn.Module]:
    """The modules whose outputs their block's own output depends on; the others only feed these.

    Each block runs again with the outputs of its modules replayed, and NaNs in place of one module's. If the block's
    output does not change, that module is idle while the others are skipped. Modules in ``running`` are not replayed.
    """
    required = {block for block in found.blocks if block in found.names}
    hooks: list[torch.utils.hooks.RemovableHandle] = []
    capture, thread = Capture(lambda output: output), threading.get_ident()

    def forget(*_: Any) -> None:
        if not is_elsewhere(thread):
            capture.calls.clear()

    def try_without(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if is_elsewhere(thread):
            return
        expected, calls = flatten(output), list(capture.calls)
        capture.calls.clear()
        for index, (module, module_output) in enumerate(calls):
            if module in required:
                continue
            without = [*calls[:index], (module, _nans(module_output)), *calls[index + 1 :]]
            try:
                with interceptor.handled_by(_ReplayWithout(without, module, running)):
                    if not same_bits(expected, flatten(block.forward(*args, **kwargs))):
                        required.add(module)
            except torch.OutOfMemoryError:
                raise
            except WRONG_PLACE:
                required.add(module)

    try:
        for block in set(found.blocks) - required:
            hooks.append(block.register_forward_pre_hook(forget))
            hooks.append(block.register_forward_hook(try_without, with_kwargs=True))
        with interceptor.handled_by(capture):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return required


class _ReplayWithout(Replay):
    """Replay recorded outputs; run the modules in ``running``, return NaNs for ``silent``."""

    def __init__(self, calls: list[tuple[nn.Module, Any]], silent: nn.Module, running: Collection[nn.Module]) -> None:
        super().__init__(calls)
        self._silent = silent
        self._running = running

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """The module's output."""
        output = super().__call__(module, call)
        return call.run() if module in self._running and module is not self._silent else output


def _nans(output: Any) -> Any:
    return rebuild(output, (tensor.new_full((), torch.nan).expand(tensor.shape) for tensor in flatten(output)))
