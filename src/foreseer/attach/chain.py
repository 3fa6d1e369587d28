"""Following streams from block to block by watching one forward pass. No class names decide.

A stream is a tensor that a block takes and gives again in the same shape (hidden state, encoder state). That an output
of one block is an input of the next is told by the tensor's identity; which input an output continues, by the argument
under which the next block takes it, and at the end of a stack by what the blocks before did, or by the nearest values.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from foreseer.attach.containers import flatten
from foreseer.attach.hooks import Forward, unwrapped


class NoChainError(RuntimeError):
    """A block gives something that continues none of its inputs."""


@dataclass(frozen=True)
class Link:
    """One call of a block.

    Attributes:
        module: the block.
        sources: per output, the name of the argument that it continues; ``None`` where no argument has its shape.
        arrived: by the name of an argument: which output of the block called before it is.
    """

    module: nn.Module
    sources: tuple[str | None, ...]
    arrived: Mapping[str, int] = field(hash=False)


@dataclass(frozen=True)
class Segment:
    """Consecutive calls of blocks that hand all their streams on untouched.

    Attributes:
        first: index of the first call.
        last: index of the last call.
        origins: per output of the last call, the argument of the first call that it continues.
    """

    first: int
    last: int
    origins: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """The calls of a network's blocks during one forward pass, in order."""

    links: tuple[Link, ...]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The blocks, as often as they are called."""
        return tuple(link.module for link in self.links)

    def segments(self, first: int, end: int, alone: bool = False) -> tuple[Segment, ...]:
        """The calls from ``first`` to before ``end`` in the longest segments, or each ``alone``.

        Raises:
            NoChainError: a block gives an output of another shape than its inputs.
        """
        found: list[Segment] = []
        while first < end:
            segment = Segment(first, first, self._sources(first))
            while not alone and segment.last + 1 < end and (longer := self._extended(segment)) is not None:
                segment = longer
            found.append(segment)
            first = segment.last + 1
        return tuple(found)

    def _extended(self, segment: Segment) -> Segment | None:
        index = segment.last + 1
        arrived = self.links[index].arrived
        sources = self._sources(index)
        if not all(name in arrived for name in sources):
            return None
        return Segment(segment.first, index, tuple(segment.origins[arrived[name]] for name in sources))

    def _sources(self, index: int) -> tuple[str, ...]:
        link = self.links[index]
        sources = tuple(name for name in link.sources if name is not None)
        if not sources or len(sources) < len(link.sources):
            kind = type(unwrapped(link.module)).__name__
            raise NoChainError(f"block {index} ({kind}) gives a tensor that has the shape of none of its inputs")
        return sources


@dataclass
class _Call:
    module: nn.Module
    shapes: dict[str, Any]
    arrived: dict[str, int]
    outputs: list[Any]
    nearest: list[str | None]


@dataclass
class ChainWatch:
    """Answers the blocks' calls of one forward pass by running them, and takes note of what is handed on."""

    _calls: list[_Call] = field(default_factory=list)
    _before: list[Tensor] = field(default_factory=list)

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a block."""
        given = given_tensors(module, args, kwargs)
        arrived = {
            name: index for name, value in given.items() for index, one in enumerate(self._before) if one is value
        }
        output = forward(*args, **kwargs)
        outputs = self._before = flatten(output)
        shapes = {name: value.shape for name, value in given.items()}
        nearest = [_nearest(one, given) for one in outputs]
        self._calls.append(_Call(module, shapes, arrived, [one.shape for one in outputs], nearest))
        return output

    def chain(self) -> Chain:
        """What was seen, once the pass is over."""
        self._before = []
        links: list[Link] = []
        settled: dict[tuple[tuple[str, ...], int], list[str | None]] = {}  # by arguments and number of outputs
        for index, call in enumerate(self._calls):
            following = self._calls[index + 1] if index + 1 < len(self._calls) else None
            likeness = tuple(call.shapes), len(call.outputs)
            handed = {} if following is None else {found: name for name, found in following.arrived.items()}
            known = settled.get(likeness, [None] * len(call.outputs))
            sources: list[str | None] = []
            for position, shape in enumerate(call.outputs):
                options = (handed.get(position), known[position], call.nearest[position])
                sources.append(next((name for name in options if name and call.shapes.get(name) == shape), None))
            if len(handed) == len(call.outputs):
                settled[likeness] = sources
            links.append(Link(call.module, tuple(sources), call.arrived))
        return Chain(tuple(links))


def given_tensors(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among the arguments of a call, by the parameter's name (its position where it has none)."""
    names = _positional(type(unwrapped(module)))
    named = {names[index] if index < len(names) else str(index): value for index, value in enumerate(args)}
    return {name: value for name, value in {**named, **kwargs}.items() if isinstance(value, Tensor)}


@lru_cache(maxsize=256)
def _positional(kind: type[nn.Module]) -> tuple[str, ...]:
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(one.name for one in parameters if one.kind in kinds)


def _nearest(output: Tensor, given: Mapping[str, Tensor]) -> str | None:
    """The input of the output's shape from which it differs least."""
    alike = [name for name, value in given.items() if value.shape == output.shape and value.dtype == output.dtype]
    if len(alike) < 2:
        return alike[0] if alike else None
    return min(alike, key=lambda name: float((output - given[name]).abs().float().mean()))
