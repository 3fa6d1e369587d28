"""State of a network's modules: their structure, read per run, and their adapters, read at each call."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping
from operator import is_
from types import CellType
from typing import Any

import numpy as np
from diffusers.configuration_utils import ConfigMixin
from torch import Tensor, nn

from foreseer.attach.interception import is_compiled, stateful_hook

# Attributes of PEFT's layers, of diffusers' attention and its (IP-adapter's) processors, and of a model with adapters.
_NAMES = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters", "scale", "processor")
_MODEL_NAMES = ("peft_config", "_hf_peft_config_loaded")
_OF_MODULES = frozenset(vars(nn.Module()))  # attributes of every module: parameters, buffers, hooks
_EMPTY = CellType()


class NetworkState:
    """State of a network's modules, collected in one pass over them.

    Weights are not compared, because offloading moves and replaces them at every call.

    Attributes:
        modules: the modules inside, and whether each is compiled and in training mode.
        foreign_cache: class name of the hook of another cache inside, else ``None``.
        adapters: the state of adapters and attention processors.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules: list[tuple[weakref.ref[nn.Module], bool, bool]] = []
        self.foreign_cache: str | None = None
        self._stores: list[tuple[Any, Mapping[str, Any], int]] = []
        owners: list[tuple[Mapping[str, Any], tuple[str, ...]]] = [(vars(model), _MODEL_NAMES)]
        for module in model.modules():
            members, children = vars(module), module._modules
            if module is not model:
                self.modules.append((weakref.ref(module), is_compiled(module), module.training))
            self.foreign_cache = self.foreign_cache or stateful_hook(members)
            for holder in (members, children):
                names = tuple(name for name in _NAMES if name in holder)
                if names:
                    owners.append((holder, names))
                processor = holder.get("processor")
                if processor is None:
                    continue
                size = -1 if Tensor in map(type, members.values()) else len(members)
                self._stores.append((processor, members, size))
                if not isinstance(processor, nn.Module):
                    own = getattr(processor, "__dict__", {})
                    names = tuple(name for name in _NAMES if name in own)
                    owners += [(own, names)] if names else []
        self.adapters = AdapterState(owners)

    def storing_processor(self) -> str | None:
        """Return the type of an attention processor that stores tensors for the pipeline, else ``None``.

        A processor stores them on itself, in containers, objects and variables that it holds, or on its attention
        module. The parameters and buffers of a processor that is a module are its weights.
        """
        for processor, members, size in self._stores:
            on_module = len(members) != size and Tensor in map(type, members.values())
            if on_module or any(map(_holds_tensor, _held(processor))):
                return type(processor).__name__
        return None


def _holds_tensor(value: Any, depth: int = 4) -> bool:
    """Return whether ``value`` is a tensor or an array, or a container or object that holds one."""
    if isinstance(value, Tensor | np.ndarray):
        return True
    if isinstance(value, str | int | float | type | nn.Module | ConfigMixin) or not depth:
        return False
    if type(value).__module__.startswith("torch.distributed"):
        return False  # a device mesh, in the configuration of context parallelism, holds the ranks as a tensor
    return any(_holds_tensor(each, depth - 1) for each in _held(value))


def _held(value: Any) -> list[Any]:
    """Return the items of a container; else the attributes of an object and the variables of a closure."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | deque):
        return list(value)
    held = [each for name, each in getattr(value, "__dict__", {}).items() if name not in _OF_MODULES]
    held += [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
    return held + [cell.cell_contents for cell in getattr(value, "__closure__", None) or () if cell != _EMPTY]


class AdapterState:
    """Active adapters, their scales, and the attention processors in use.

    Args:
        owners: attribute dictionaries, and the names to read in each.
    """

    def __init__(self, owners: list[tuple[Mapping[str, Any], tuple[str, ...]]]) -> None:
        self._owners = owners
        self._values = self._read()
        self._frozen = [_frozen(value) for value in self._values]

    @property
    def plain(self) -> list[Any]:
        """The values that are numbers, text and tuples of them, in order."""
        return [value for value in self._frozen if _is_plain(value)]

    def changed(self) -> bool:
        """Return whether a value has changed since the last read."""
        values = self._read()
        if len(values) == len(self._values) and all(map(is_, values, self._values)):
            return False
        frozen = [_frozen(value) for value in values]
        before, self._values, self._frozen = self._frozen, values, frozen
        return before != frozen

    def _read(self) -> list[Any]:
        """Return the values themselves, followed by the items of those that are dictionaries, lists or sets."""
        values = [members.get(name) for members, names in self._owners for name in names]
        for value in values[:]:
            if isinstance(value, dict):
                values += value.values()
                values.append(len(value))
            elif isinstance(value, list | set):
                values += value
                values.append(len(value))
        return values


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | str)


def _frozen(value: Any) -> Any:
    """A copy to compare with: plain values as they are, other objects by identity."""
    if isinstance(value, float):
        return f"{value:.9g}"  # a LoRA scale given with the call is multiplied in and divided out again
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return tuple((name, _frozen(each)) for name, each in value.items())
    if isinstance(value, list | tuple | set):
        return tuple(map(_frozen, value))
    return id(value), value  # holds a reference, so that the id is not reused
