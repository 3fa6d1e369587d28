"""Tracing streams from block to block during one forward pass. No class names decide.

A stream is a tensor that a block takes and returns in the same shape (hidden state, encoder state). An output of one
block is an input of the next if it is the same tensor object. Which input an output continues is read from the
argument under which the next block takes it; at the end of a stack, from earlier blocks or from the nearest values.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from foreseer.attach.interception import unwrapped
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import flatten


class NoResidualError(RuntimeError):
    """A block returns a tensor that continues none of its inputs."""


@dataclass(frozen=True)
class BlockCall:
    """One call of a block.

    Attributes:
        module: the block.
        sources: per output, the name of the argument that it continues; ``None`` where no argument has its shape.
        arrived: by argument name: which output of the preceding block it is.
    """

    module: nn.Module
    sources: tuple[str | None, ...]
    arrived: Mapping[str, int] = field(hash=False)


@dataclass(frozen=True)
class Segment:
    """Consecutive calls of blocks that pass all their streams on unchanged.

    Attributes:
        first: index of the first call.
        last: index of the last call.
        origins: per output of the last call, the argument of the first call that it continues.
    """

    first: int
    last: int
    origins: tuple[str, ...]


@dataclass(frozen=True)
class BlockTrace:
    """The calls of a network's blocks during one forward pass, in order."""

    calls: tuple[BlockCall, ...]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The block of each call."""
        return tuple(call.module for call in self.calls)

    def segments(self, first: int, end: int, alone: bool = False) -> tuple[Segment, ...]:
        """Split the calls from ``first`` to ``end`` (exclusive) into segments.

        Segments are as long as possible; if ``alone``, each call is one segment.

        Raises:
            NoResidualError: a block returns a tensor of another shape than its inputs.
        """
        segments: list[Segment] = []
        while first < end:
            segment = Segment(first, first, self._sources(first))
            while not alone and segment.last + 1 < end and (longer := self._extended(segment)) is not None:
                segment = longer
            segments.append(segment)
            first = segment.last + 1
        return tuple(segments)

    def _extended(self, segment: Segment) -> Segment | None:
        index = segment.last + 1
        arrived = self.calls[index].arrived
        sources = self._sources(index)
        if not all(name in arrived for name in sources):
            return None
        return Segment(segment.first, index, tuple(segment.origins[arrived[name]] for name in sources))

    def _sources(self, index: int) -> tuple[str, ...]:
        call = self.calls[index]
        sources = tuple(name for name in call.sources if name is not None)
        if not sources or len(sources) < len(call.sources):
            kind = type(unwrapped(call.module)).__name__
            raise NoResidualError(f"block {index} ({kind}) returns a tensor that has the shape of none of its inputs")
        return sources


@dataclass
class _TracedCall:
    module: nn.Module
    shapes: dict[str, Any]
    arrived: dict[str, int]
    outputs: list[Any]
    nearest: list[str | None]


@dataclass
class BlockTracer:
    """Handler that runs the blocks of one forward pass and notes what they pass on."""

    _calls: list[_TracedCall] = field(default_factory=list)
    _previous: list[Tensor] = field(default_factory=list)

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """Run a block."""
        arguments = tensor_arguments(module, call)
        arrived = {
            name: index
            for name, value in arguments.items()
            for index, tensor in enumerate(self._previous)
            if tensor is value
        }
        output = call.run()
        outputs = self._previous = flatten(output)
        shapes = {name: value.shape for name, value in arguments.items()}
        nearest = [_nearest(tensor, arguments) for tensor in outputs]
        self._calls.append(_TracedCall(module, shapes, arrived, [tensor.shape for tensor in outputs], nearest))
        return output

    def trace(self) -> BlockTrace:
        """The trace, once the pass is over."""
        self._previous = []
        calls: list[BlockCall] = []
        settled: dict[tuple[tuple[str, ...], int], list[str | None]] = {}  # by arguments and number of outputs
        for index, call in enumerate(self._calls):
            following = self._calls[index + 1] if index + 1 < len(self._calls) else None
            kind = tuple(call.shapes), len(call.outputs)
            passed_on = {} if following is None else {output: name for name, output in following.arrived.items()}
            earlier = settled.get(kind, [None] * len(call.outputs))
            sources: list[str | None] = []
            for position, shape in enumerate(call.outputs):
                options = (passed_on.get(position), earlier[position], call.nearest[position])
                sources.append(next((name for name in options if name and call.shapes.get(name) == shape), None))
            if len(passed_on) == len(call.outputs):
                settled[kind] = sources
            calls.append(BlockCall(call.module, tuple(sources), call.arrived))
        return BlockTrace(tuple(calls))


def tensor_arguments(module: nn.Module, call: NetworkCall) -> dict[str, Tensor]:
    """The tensors among the arguments of a call, by parameter name (by position where there is no name)."""
    names = _positional(type(unwrapped(module)))
    named = {names[index] if index < len(names) else str(index): value for index, value in enumerate(call.args)}
    return {name: value for name, value in {**named, **call.kwargs}.items() if isinstance(value, Tensor)}


@lru_cache(maxsize=256)
def _positional(kind: type[nn.Module]) -> tuple[str, ...]:
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def _nearest(output: Tensor, arguments: Mapping[str, Tensor]) -> str | None:
    """The argument of the output's shape and dtype from which the output differs least."""
    alike = [name for name, value in arguments.items() if value.shape == output.shape and value.dtype == output.dtype]
    if len(alike) < 2:
        return alike[0] if alike else None
    return min(alike, key=lambda name: float((output - arguments[name]).abs().float().mean()))
