"""Search for the attention and MLP modules inside a network's blocks, by watching one forward pass.

Class names are not used. Blocks are those of `foreseer.attach.network.boundary` that take three-dimensional tokens; a
block that contains stacks (a U-Net's transformers) is replaced by the items of these. A stack is a list of modules
that each return tokens of the shape they take, by modules that take tokens themselves. The modules of a block are the
outermost modules below it that take tokens, return only tokens, and hold at least `MODULE_SHARE` of its parameters; a
block without such modules is itself the module.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.network.boundary import BLOCK_SHARE, find_blocks, is_elsewhere, units
from foreseer.attach.network.containers import UnknownContainerError, flatten

MODULE_SHARE = 0.01  # of a block's parameters: norms carry less


@dataclass(frozen=True)
class FoundModules:
    """Blocks and, in each, the modules that may be skipped.

    Attributes:
        blocks: in the order of their calls.
        modules: per block.
        names: of the modules, by their path in the network.
    """

    blocks: tuple[nn.Module, ...]
    modules: dict[nn.Module, tuple[nn.Module, ...]]
    names: dict[nn.Module, str]


@dataclass
class _Seen:
    """What the calls of one module took and returned.

    Attributes:
        order: position of its first call among those of all modules.
        flat: whether some call took three-dimensional tokens.
        keeps: whether every call returned tokens of a shape that it took.
        maps: whether every call took tokens and returned tokens only.
    """

    order: int
    flat: bool = False
    keeps: bool = True
    maps: bool = True


@dataclass
class ModuleFinder:
    """Context manager that watches one forward pass of ``model``.

    :meth:`found` then returns its blocks and modules.
    """

    model: nn.Module
    _seen: dict[nn.Module, _Seen] = field(default_factory=dict)
    _hooks: list[torch.utils.hooks.RemovableHandle] = field(default_factory=list)
    _thread: int = field(default_factory=threading.get_ident)  # other threads may run the network meanwhile

    def __enter__(self) -> ModuleFinder:
        for module in self.model.modules():
            if module is not self.model:
                self._hooks.append(module.register_forward_pre_hook(self._before))
                self._hooks.append(module.register_forward_hook(self._after, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def found(self) -> FoundModules:
        """Return the blocks that were called, and their modules."""
        blocks = sorted(self._blocks(), key=lambda block: self._seen[block].order)
        modules = {block: self._modules_of(block) for block in blocks}
        taken = {module for block in blocks for module in modules[block]}
        names = {module: name for name, module in self.model.named_modules() if module in taken}
        return FoundModules(tuple(blocks), modules, names)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not is_elsewhere(self._thread):
            self._seen.setdefault(module, _Seen(len(self._seen)))

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if is_elsewhere(self._thread):
            return
        seen = self._seen[module]
        given = [value for value in (*args, *kwargs.values()) if is_tokens(value)]
        try:
            tensors = flatten(output)
        except UnknownContainerError:
            tensors = []
        shapes = {value.shape for value in given}
        seen.flat |= any(value.dim() == 3 for value in given)
        seen.keeps &= any(is_tokens(one) and one.shape in shapes for one in tensors)
        seen.maps &= bool(given) and bool(tensors) and all(is_tokens(one) for one in tensors)

    def _blocks(self) -> Iterator[nn.Module]:
        stacked, total = find_blocks(self.model), parameters(self.model)
        for unit in units(self.model):
            nested = list(self._nested(unit))
            if nested and (unit in stacked or sum(map(parameters, nested)) >= BLOCK_SHARE * total):
                yield from nested
            elif unit in stacked and unit in self._seen and self._seen[unit].flat:
                yield unit

    def _nested(self, module: nn.Module) -> Iterator[nn.Module]:
        """The items of the innermost stacks below ``module``."""
        for child in module.children():
            if isinstance(child, nn.ModuleList) and self._is_stack(child):
                for item in child:
                    yield from list(self._nested(item)) or ([item] if item in self._seen else [])
            else:
                yield from self._nested(child)

    def _is_stack(self, items: Iterable[nn.Module]) -> bool:
        called = [item for item in items if item in self._seen]
        return bool(called) and all(
            self._seen[item].keeps and self._seen[item].flat and any(self._maps(child) for child in item.children())
            for item in called
        )

    def _maps(self, module: nn.Module) -> bool:
        return module in self._seen and self._seen[module].maps

    def _modules_of(self, block: nn.Module) -> tuple[nn.Module, ...]:
        least = MODULE_SHARE * parameters(block)

        def outermost(module: nn.Module) -> Iterator[nn.Module]:
            for child in module.children():
                if self._maps(child) and parameters(child) >= least:
                    yield child
                else:
                    yield from outermost(child)

        found = list(dict.fromkeys(outermost(block))) or ([block] if self._maps(block) else [])
        if len(found) == 1 and found[0] is not block:  # a wrapper?
            inside = self._modules_of(found[0])
            if sum(any(True for _ in module.children()) for module in inside) > 1:
                return inside
        return tuple(sorted(found, key=lambda module: self._seen[module].order))


def is_tokens(value: Any) -> bool:
    """Whether ``value`` is a tensor of several tokens, and no modulation that is spread over all of them."""
    return isinstance(value, Tensor) and value.dim() >= 3 and value.shape[1:-1].numel() > 1


def parameters(module: nn.Module) -> int:
    """How many numbers a module has."""
    return sum(parameter.numel() for parameter in module.parameters())
