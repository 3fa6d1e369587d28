"""What callbacks change of a network in the middle of a run: which adapters act, how strongly, which attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

# Of PEFT's layers, of diffusers' attention and its (IP-adapter's) processors, and of a model with adapters.
_NAMES = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters", "scale", "processor")
_OF_MODEL = ("peft_config", "_hf_peft_config_loaded")


class Settings:
    """The settings of a network's modules, as they were when last looked at.

    Weights are not among them: offloading moves and replaces them at every call.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._owners: list[tuple[Mapping[str, Any], tuple[str, ...]]] = [(vars(model), _OF_MODEL)]
        for module in model.modules():
            for members in (vars(module), module._modules):
                self._owners += _with_settings(members)
        self._values = self._read()

    @property
    def plain(self) -> list[Any]:
        """Those that are numbers, words and lists of them, in order."""
        return [value for value in self._values if _is_plain(value)]

    def changed(self) -> bool:
        """Whether any is another than when last looked at."""
        values = self._read()
        before, self._values = self._values, values
        return before != values

    def _read(self) -> list[Any]:
        return [_frozen(members.get(name)) for members, names in self._owners for name in names]


def _with_settings(members: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], tuple[str, ...]]]:
    """What of an object's attributes is to be looked at; a processor that is no module is an owner itself."""
    names = tuple(name for name in _NAMES if name in members)
    found = [(members, names)] if names else []
    processor = members.get("processor")
    if processor is not None and not isinstance(processor, nn.Module):
        found += _with_settings(getattr(processor, "__dict__", {}))
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | str)


def _frozen(value: Any) -> Any:
    """A copy to compare with: plain values as they are, others by which object they are."""
    if isinstance(value, float):
        return f"{value:.9g}"  # a call's own LoRA scale is multiplied in and divided out again
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return tuple((name, _frozen(one)) for name, one in value.items())
    if isinstance(value, list | tuple | set):
        return tuple(map(_frozen, value))
    return id(value), value  # kept alive, so that no other comes to have its number; told apart by number first
