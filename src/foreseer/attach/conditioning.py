"""What a call is given besides sample and timestep: by it the calls of one branch know each other."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Place = tuple[str | int, ...]
_GLIMPSE = 1024  # elements of a sample by which it is known again


@dataclass
class Places:
    """What the calls of a branch have shown of their arguments so far, in all runs of a denoiser.

    Attributes:
        staying: given as the same object from call to call, when last seen.
        anew: given as another object, or written to, from call to call.
    """

    staying: set[Place] = field(default_factory=set)
    anew: set[Place] = field(default_factory=set)

    def stay(self, places: Set[Place]) -> None:
        """Note that ``places`` stayed."""
        self.staying |= places
        self.anew -= places

    def come_anew(self, places: Set[Place]) -> None:
        """Note that ``places`` did not stay."""
        self.anew |= places
        self.staying -= places

    def surprised(self, place: Place, written: bool) -> bool:
        """Whether it was not to be expected that ``place`` does not stay; the next time it is."""
        if place in self.anew or not (written or place in self.staying):
            return False
        self.come_anew({place})
        return True


class Conditioning:
    """The tensors given to the last call of a branch (prompt embeddings, masks, positions), by place.

    A pipeline hands the same objects to a branch at every step; another generation on the same model hands its own, and
    so does a callback that changes the prompt. Objects are told apart, and whether they were written to; not values:
    nothing waits for a GPU, and nothing is kept alive.

    Args:
        args: the call's positional arguments.
        kwargs: the call's keyword arguments.
        timestep: the timestep's position and name among them.

    Attributes:
        places: what is known of the branch's arguments.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], timestep: tuple[int, str]) -> None:
        everything = list(_tensors(("args", args))) + list(_tensors(("kwargs", kwargs)))
        times = {("args", timestep[0]), ("kwargs", timestep[1])}
        left_out = {id(tensor) for place, tensor in everything if place[:2] in times}  # LTX-2 gives it twice
        given = [(place, tensor) for place, tensor in everything if id(tensor) not in left_out]
        self._sample = _glimpse(given[0][1]) if given else None
        self._given = {place: _Given.of(tensor) for place, tensor in given[1:]}
        self.places = Places()
        self._stays: set[Place] | None = None
        self._calls = 1

    def may_go_on(self, later: Conditioning) -> bool:
        """Whether ``later`` may be the next call of the branch.

        What is the same object at the branch's second call stays so. Of what is not, nothing is asked where it is made
        anew for every call; but it is another run's, or was replaced, if the first object lives on and is not given any
        more, if it was the same in earlier runs of the branch or was written to, and if the second is given again at
        the third call.
        """
        known = self.places
        for place, last in self._given.items():
            now = later._given.get(place)
            same = now is not None and last.is_same(now)
            if self._stays is not None and place in self._stays:
                if not same:
                    return False
            elif self._calls == 1 and not same:
                if last.lives_on_without(now) or known.surprised(place, last.was_written(now)):
                    return False
            elif self._calls == 2 and same:
                known.stay({place})
                return False
        return True

    def go_on(self, later: Conditioning) -> None:
        """Take ``later`` for the last call."""
        known = self.places
        if self._stays is None:
            self._stays = {place for place, last in self._given.items() if last.is_same(later._given.get(place))}
            known.stay(self._stays)
        elif self._calls == 2:
            known.come_anew(self._given.keys() - self._stays)
        self._given, self._sample = later._given, later._sample
        self._calls += 1

    def likeness(self, later: Conditioning) -> float:
        """Cosine of the samples of ``later`` and of the last call, 0 where there is none; waits for their device."""
        one, other = self._sample, later._sample
        if one is None or other is None or one.shape != other.shape:
            return 0.0
        cosine = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
        return cosine if math.isfinite(cosine) else 0.0


@dataclass(frozen=True, slots=True)
class _Given:
    """A tensor that was given, and how often it was written to; ``None`` for inference tensors, which do not count."""

    tensor: weakref.ref[Tensor]
    version: int | None

    @classmethod
    def of(cls, tensor: Tensor) -> _Given:
        return cls(weakref.ref(tensor), None if tensor.is_inference() else tensor._version)

    def is_same(self, other: _Given | None) -> bool:
        tensor = self.tensor()
        return other is not None and tensor is not None and other.tensor() is tensor and other.version == self.version

    def was_written(self, now: _Given | None) -> bool:
        tensor = self.tensor()
        return now is not None and tensor is not None and now.tensor() is tensor and now.version != self.version

    def lives_on_without(self, now: _Given | None) -> bool:
        tensor = self.tensor()
        return tensor is not None and (now is None or now.tensor() is not tensor)


def _glimpse(sample: Tensor) -> Tensor | None:
    """A few elements of a sample; ``None`` of what is no plain tensor."""
    if type(sample) not in (Tensor, nn.Parameter) or not sample.numel() or sample.layout != torch.strided:
        return None
    flat = sample.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _GLIMPSE)].clone()


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
