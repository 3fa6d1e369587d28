"""Search for the boundary between a network's blocks and its head, by watching one forward pass.

Class names are not used. The units of a network are its direct children; a ``ModuleList`` is replaced by its items.
Blocks are the items of the lists that hold at least `BLOCK_SHARE` of all lists' parameters. Heads are the units called
after the last block whose first argument is an output of that block.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.network.containers import UnknownContainerError, flatten

BLOCK_SHARE = 0.05  # of the parameters of all lists: a list with less is not a stack of blocks


@dataclass(frozen=True)
class HeadBoundary:
    """Which units a forecast skips, and which ones receive the forecast feature.

    Attributes:
        blocks: units to skip, in the order of their calls.
        heads: units whose first positional argument is the feature, in the order of their calls.
    """

    blocks: tuple[nn.Module, ...]
    heads: tuple[nn.Module, ...]


@dataclass
class _Trace:
    called: list[nn.Module] = field(default_factory=list)
    last_block: int = -1
    block_outputs: list[Tensor] = field(default_factory=list)
    after: list[tuple[nn.Module, Tensor]] = field(default_factory=list)


class BoundaryFinder:
    """Context manager that watches one forward pass of ``model``.

    :meth:`candidates` then yields possible boundaries.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._blocks = {id(block) for block in find_blocks(model)}
        self._trace = _Trace()
        self._thread = threading.get_ident()  # other threads may run the network meanwhile
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> BoundaryFinder:
        for unit in units(self._model):
            self._hooks.append(unit.register_forward_pre_hook(self._before))
            if id(unit) in self._blocks:
                self._hooks.append(unit.register_forward_hook(self._after_block))
        return self

    def __exit__(self, *error: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def candidates(self) -> Iterator[HeadBoundary]:
        """Yield boundaries to try: skip all units from the first block to the last, then only the blocks."""
        trace = self._trace
        heads = tuple(_without_repeats(unit for unit, value in trace.after if _comes_from(value, trace.block_outputs)))
        first = next((index for index, unit in enumerate(trace.called) if id(unit) in self._blocks), None)
        if first is None or not heads:
            return
        between = trace.called[first : trace.last_block + 1]
        blocks_alone = [unit for unit in between if id(unit) in self._blocks]
        yield HeadBoundary(tuple(_without_repeats(between)), heads)
        if len(blocks_alone) < len(between):
            yield HeadBoundary(tuple(_without_repeats(blocks_alone)), heads)

    def _before(self, unit: nn.Module, args: tuple[Any, ...]) -> None:
        if is_elsewhere(self._thread):
            return
        self._trace.called.append(unit)
        if id(unit) not in self._blocks and self._trace.last_block >= 0 and args and isinstance(args[0], Tensor):
            self._trace.after.append((unit, args[0]))

    def _after_block(self, unit: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if is_elsewhere(self._thread):
            return
        trace = self._trace
        trace.last_block = len(trace.called) - 1
        trace.after = []
        try:
            trace.block_outputs = flatten(output)
        except UnknownContainerError:
            trace.block_outputs = []


def is_elsewhere(thread: int) -> bool:
    """Whether another thread than ``thread`` runs this; not known, and ``False``, in compiled code."""
    return not torch.compiler.is_compiling() and threading.get_ident() != thread


def units(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the direct children of ``model``; the items of a module list or dictionary replace it."""
    for child in model.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from (item for item in child.children() if not isinstance(item, nn.ModuleList | nn.ModuleDict))
        else:
            yield child


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the items of the largest ``ModuleList`` children.

    These are the lists that hold at least `BLOCK_SHARE` of the parameters of all direct ``ModuleList`` children.
    """
    sizes = {
        child: sum(parameter.numel() for parameter in child.parameters())
        for child in model.children()
        if isinstance(child, nn.ModuleList)
    }
    least = BLOCK_SHARE * sum(sizes.values())
    return [block for child, size in sizes.items() if size >= least for block in child]


def _without_repeats(modules: Any) -> list[nn.Module]:
    return list({id(module): module for module in modules}.values())


def _comes_from(value: Tensor, outputs: list[Tensor]) -> bool:
    """Return whether ``value`` is an output of the last block, a view of it, or has as many elements."""
    storage = value.untyped_storage().data_ptr()
    if any(output.untyped_storage().data_ptr() == storage for output in outputs):
        return True
    return any(output.numel() == value.numel() and output.dim() >= 3 for output in outputs)
