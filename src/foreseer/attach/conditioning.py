"""What a call is given besides sample and timestep: by it the calls of one branch know each other."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

Place = tuple[str | int, ...]


class Conditioning:
    """The tensors given to one call (prompt embeddings, masks, positions), by their places among the arguments.

    A pipeline hands the same objects to a branch at every step; another generation on the same model hands its own.
    Objects are told apart, not values: nothing waits for a GPU, and nothing is kept alive.

    Args:
        args: the call's positional arguments.
        kwargs: the call's keyword arguments.
        timestep: the timestep's position and name among them.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], timestep: tuple[int, str]) -> None:
        everything = list(_tensors(("args", args))) + list(_tensors(("kwargs", kwargs)))
        left_out = {("args", timestep[0]), ("kwargs", timestep[1])}
        given = [(place, tensor) for place, tensor in everything if place[:2] not in left_out]
        self._given = {place: weakref.ref(tensor) for place, tensor in given[1:]}  # the first is the sample
        self._stays: set[Place] | None = None

    def goes_on(self, later: Conditioning) -> bool:
        """Whether ``later`` may be a later call of the branch that this one began.

        What is the same object at the branch's second call stays so. Where nothing is, arguments made anew for every
        call tell nothing; but others, which live on and are not given any more, are another run's.
        """
        found = {place for place, first in self._given.items() if _same(first, later._given.get(place))}
        if self._stays is not None:
            return self._stays <= found
        if not found and any(first() is not None for first in self._given.values()):
            return False
        self._stays = found
        return True


def _same(one: weakref.ref[Tensor], other: weakref.ref[Tensor] | None) -> bool:
    tensor = one()
    return tensor is not None and other is not None and other() is tensor


def _tensors(found: tuple[Any, ...]) -> Iterator[tuple[Place, Tensor]]:
    *place, value = found
    if isinstance(value, Tensor):
        yield tuple(place), value
    elif isinstance(value, tuple | list):
        for index, one in enumerate(value):
            yield from _tensors((*place, index, one))
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _tensors((*place, name, one))
