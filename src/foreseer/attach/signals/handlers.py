"""Block call handlers for signals: find the blocks, measure at the first block, reuse its output."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from foreseer.attach.interception import unwrapped
from foreseer.attach.network.block_trace import BlockCall, BlockTracer, tensor_arguments
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import UnknownContainerError, flatten, rebuild
from foreseer.attach.network.interceptor import Handler, Interceptor, Replay, placeholder
from foreseer.attach.network.verification import same_bits
from foreseer.gate import SignalError


@dataclass(frozen=True)
class FirstBlockCall:
    """Block calls of a network for one argument layout, and the first block that the sample reaches.

    Attributes:
        calls: each block called, with a placeholder for its output.
        index: the first block that the sample reaches.
        block_call: how that block passes its streams on.
        stream: the argument by which the sample reaches it.
    """

    calls: list[tuple[nn.Module, Any]]
    index: int
    block_call: BlockCall
    stream: str


@dataclass
class BlockMemory:
    """Calls of blocks that ran for a signal: the block, its input tensors and its output."""

    calls: list[tuple[nn.Module, list[Tensor], Any]]

    def add(self, module: nn.Module, call: NetworkCall, output: Any) -> None:
        """Store a call, unless its arguments cannot be compared; such a call runs again."""
        try:
            self.calls.append((module, flatten((call.args, call.kwargs)), output))
        except UnknownContainerError:
            return

    def take(self, module: nn.Module, call: NetworkCall) -> list[Any]:
        """Remove the stored output of the same call and return it in a list; empty if there is none."""
        for index, (remembered, tensors, output) in enumerate(self.calls):
            if remembered is module and same_bits(tensors, flatten((call.args, call.kwargs))):
                del self.calls[index]
                return [output]
        return []


class MemoizingInterceptor(Interceptor):
    """Interceptor that reuses the outputs of block calls that already ran for a signal.

    If no other handler is active, a block call with the same tensors returns the stored output once.
    """

    @property
    def handler(self) -> Handler | None:
        """The handler of this thread."""
        return super().handler or self._recall

    def forget(self) -> BlockMemory:
        """Replace this thread's memory by an empty one and return it."""
        memory = self._threads.memory = BlockMemory([])
        return memory

    def _recall(self, module: nn.Module, call: NetworkCall) -> Any:
        memory = getattr(self._threads, "memory", None)
        remembered = memory.take(module, call) if memory is not None and memory.calls else []
        return remembered[0] if remembered else call.run()


class FirstBlockHandler:
    """Handler that measures the signal at the first block that the sample reaches.

    Earlier blocks run; it returns placeholders for that block and all later ones.

    Attributes:
        signal: the measured signal.
        lost: whether the blocks were called in an unexpected order.
    """

    def __init__(
        self,
        first: FirstBlockCall,
        look: Callable[[FirstBlockCall, NetworkCall], tuple[Tensor, Any]],
        memory: BlockMemory,
    ) -> None:
        self.signal: Tensor | None = None
        self.lost = False
        self._first = first
        self._look = look
        self._memory = memory
        self._position = 0

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """A block's output, or a placeholder."""
        index, calls = self._position, self._first.calls
        self._position += 1
        self.lost = self.lost or index >= len(calls) or calls[index][0] is not module
        if self.lost or index < self._first.index:
            output = call.run()
            self._memory.add(module, call, output)
            return output
        if index == self._first.index:
            self.signal, output = self._look(self._first, call)
            if output is not None:
                self._memory.add(module, call, output)
        return calls[index][1]


class ShapeRecorder(BlockTracer):
    """Block tracer that also keeps a placeholder for each block's output.

    Attributes:
        placeholders: each block called, with a placeholder for its output.
    """

    def __init__(self) -> None:
        super().__init__()
        self.placeholders: list[tuple[nn.Module, Any]] = []

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """Run a block."""
        output = super().__call__(module, call)
        self.placeholders.append((module, placeholder(output)))
        return output


class InputChecksums(Replay):
    """Handler that returns placeholders and records checksums of each block's inputs.

    Attributes:
        sums: by call and argument: number of elements, their sum, the sum of their squares.
    """

    def __init__(self, calls: list[tuple[nn.Module, Any]]) -> None:
        super().__init__(calls)
        self.sums: list[dict[str, tuple[float, ...]]] = []

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """A placeholder."""
        arguments = {name: value.double() for name, value in tensor_arguments(module, call).items()}
        self.sums.append(
            {
                name: (value.numel(), float(value.sum()), float(value.square().sum()))
                for name, value in arguments.items()
            }
        )
        return super().__call__(module, call)


def with_other_sample(model: nn.Module, call: NetworkCall) -> NetworkCall:
    """Return the call with another sample, which is a denoiser's first argument."""

    def other(sample: Any) -> Any:
        return rebuild(sample, iter([1.5 * tensor + 0.25 for tensor in flatten(sample)]))

    if call.args:
        return NetworkCall(call.forward, (other(call.args[0]), *call.args[1:]), call.kwargs)
    name = next(iter(list(inspect.signature(type(unwrapped(model)).forward).parameters)[1:]), "")
    if name not in call.kwargs:
        raise SignalError(f"{type(model).__name__} was called without its first argument, {name!r}")
    return NetworkCall(call.forward, call.args, {**call.kwargs, name: other(call.kwargs[name])})
