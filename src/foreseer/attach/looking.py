"""Handlers of blocks' calls for probes: what is learned of a network once, one look into it, and what ran in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from foreseer.attach.bypass import Bypass, Handler, Replay, stand_in
from foreseer.attach.chain import ChainWatch, Link, given_tensors
from foreseer.attach.containers import UnknownContainerError, flatten, rebuild
from foreseer.attach.hooks import Forward, unwrapped
from foreseer.attach.proof import same_bits
from foreseer.gate import SignalError


@dataclass(frozen=True)
class FirstBlockCall:
    """What was learned of calls of one kind.

    Attributes:
        calls: each block called, with a stand-in for its output.
        index: the first that the sample reaches.
        link: how that block hands its streams on.
        stream: the argument by which the sample reaches it.
    """

    calls: list[tuple[nn.Module, Any]]
    index: int
    link: Link
    stream: str


@dataclass
class Memory:
    """Calls of blocks that ran in a look: the block, the tensors that it was given, its output."""

    calls: list[tuple[nn.Module, list[Tensor], Any]]

    def add(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Remember a call."""
        try:
            self.calls.append((module, flatten((args, kwargs)), output))
        except UnknownContainerError:
            return  # what cannot be compared runs again

    def take(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The output of the same call, once; nothing where there was none."""
        for index, (known, given, output) in enumerate(self.calls):
            if known is module and same_bits(given, flatten((args, kwargs))):
                del self.calls[index]
                return [output]
        return []


class Remembering(Bypass):
    """Where nothing else answers: a call of a look, with the same tensors to the last bit, is not run again."""

    @property
    def handler(self) -> Handler | None:
        """What answers in this thread."""
        return super().handler or self._recall

    def forget(self) -> Memory:
        """This thread's memory, empty."""
        memory = self._threads.memory = Memory([])
        return memory

    def _recall(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        memory = getattr(self._threads, "memory", None)
        found = memory.take(module, args, kwargs) if memory is not None and memory.calls else []
        return found[0] if found else forward(*args, **kwargs)


class Look:
    """Runs the blocks before the first one, looks at that one, and gives stand-ins for the rest.

    Attributes:
        signal: what was seen.
        lost: whether other blocks were called than was known.
    """

    def __init__(self, first: FirstBlockCall, look: Callable[..., tuple[Tensor, Any]], memory: Memory) -> None:
        self.signal: Tensor | None = None
        self.lost = False
        self._first = first
        self._look = look
        self._memory = memory
        self._position = 0

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block's output, or a stand-in."""
        index, calls = self._position, self._first.calls
        self._position += 1
        self.lost = self.lost or index >= len(calls) or calls[index][0] is not module
        if self.lost or index < self._first.index:
            output = forward(*args, **kwargs)
            self._memory.add(module, args, kwargs, output)
            return output
        if index == self._first.index:
            self.signal, output = self._look(self._first, forward, args, kwargs)
            if output is not None:
                self._memory.add(module, args, kwargs, output)
        return calls[index][1]


class Shapes(ChainWatch):
    """Follows the streams, and keeps stand-ins.

    Attributes:
        seen: each block called and its stand-in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[nn.Module, Any]] = []

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a block."""
        output = super().__call__(module, forward, args, kwargs)
        self.seen.append((module, stand_in(output)))
        return output


class Sums(Replay):
    """Gives stand-ins, and tells what each block was given by a few sums.

    Attributes:
        sums: by call and argument: number of elements, their sum, and that of their squares.
    """

    def __init__(self, calls: list[tuple[nn.Module, Any]]) -> None:
        super().__init__(calls)
        self.sums: list[dict[str, tuple[float, ...]]] = []

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A stand-in."""
        given = {name: value.double() for name, value in given_tensors(module, args, kwargs).items()}
        self.sums.append(
            {name: (one.numel(), float(one.sum()), float(one.square().sum())) for name, one in given.items()}
        )
        return super().__call__(module, forward, args, kwargs)


def altered(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with another sample, which is what a denoiser takes first."""

    def other(sample: Any) -> Any:
        return rebuild(sample, iter([1.5 * one + 0.25 for one in flatten(sample)]))

    if args:
        return (other(args[0]), *args[1:]), kwargs
    name = next(iter(list(inspect.signature(type(unwrapped(model)).forward).parameters)[1:]), "")
    if name not in kwargs:
        raise SignalError(f"{type(model).__name__} was called without its first argument, {name!r}")
    return args, {**kwargs, name: other(kwargs[name])}
