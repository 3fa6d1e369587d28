"""One call of a module: the forward function and its arguments."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Forward = Callable[..., Any]

_PLAIN = (Tensor, str, bytes, bool, int, float, complex, type(None), enum.Enum)
_PLAIN_TORCH = (torch.dtype, torch.device, torch.Size, torch.Generator)


@dataclass(frozen=True, slots=True)
class NetworkCall:
    """A module's own call and its arguments.

    Attributes:
        forward: the module's call without the interception.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """

    forward: Forward
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """Run the module and return its output."""
        return self.forward(*self.args, **self.kwargs)

    def rehearse(self) -> Any:
        """Run the module for a verification, on copies of its list and dictionary arguments.

        The copies are needed because some networks empty these arguments.
        """
        return self.forward(*_copy(self.args), **_copy(self.kwargs))

    def stateful_argument(self) -> str | None:
        """Return the type of an argument that may keep state between calls (a cache object), else ``None``."""
        pending: list[Any] = [*self.args, *self.kwargs.values()]
        for value in pending:
            if isinstance(value, list | tuple | set):
                pending += value
            elif isinstance(value, Mapping):
                pending += value.values()
            elif not isinstance(value, _PLAIN + _PLAIN_TORCH) and not callable(value):
                return type(value).__name__
        return None


def _copy(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(map(_copy, value))
    if type(value) is dict:
        return {name: _copy(each) for name, each in value.items()}
    return value
