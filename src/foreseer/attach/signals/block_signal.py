"""Signals measured at a network's first block, before a gate decides whether the step computes.

A measurement runs the network up to the first block that its sample reaches, and returns placeholders for the blocks
after it. Its cost is that of the embedders, the blocks up to that block, and the head. Blocks that ran for the
measurement do not run again in the same call.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.network.block_trace import tensor_arguments
from foreseer.attach.network.boundary import find_blocks
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import flatten
from foreseer.attach.network.interceptor import WRONG_PLACE
from foreseer.attach.run.guard import GRADIENTS, CallInputs
from foreseer.attach.signals.handlers import (
    FirstBlockCall,
    FirstBlockHandler,
    InputChecksums,
    MemoizingInterceptor,
    ShapeRecorder,
    with_other_sample,
)
from foreseer.gate import SignalError


class BlockSignal(ABC):
    """Signal measured at the first block that the sample reaches.

    The block is found by watching the network, without class names.

    Args:
        model: the denoiser.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._blocks = MemoizingInterceptor(model)
        self._first_blocks: dict[tuple[Any, ...], FirstBlockCall] = {}
        self._installed = False
        self._lock = threading.RLock()

    def measure(self, call: NetworkCall) -> Sequence[Tensor]:
        """Measure the signal of one call.

        Raises:
            SignalError: gradients are on, the network cannot be rehearsed, no block passes the sample on, or the order
                of the blocks changes every time.
        """
        if torch.is_grad_enabled():
            raise SignalError(GRADIENTS)
        stateful = call.stateful_argument()
        if stateful is not None:
            raise SignalError(f"the network is given a {stateful}, which may keep state")
        layout = CallInputs(call.args, call.kwargs).layout
        for first in (self._first_blocks.get(layout), None):
            if first is None:
                with self._lock:
                    first = self._first_blocks[layout] = self._learn(call)  # noqa: PLW2901
            handler = FirstBlockHandler(first, self.look, self._blocks.forget())
            try:
                with self._blocks.handled_by(handler):
                    call.rehearse()
            except torch.OutOfMemoryError:
                raise
            except WRONG_PLACE as error:
                raise SignalError(f"the network does not run with its blocks skipped: {error}") from error
            if handler.signal is not None and not handler.lost:
                return [handler.signal]
        raise SignalError("the network calls its blocks in another order each time")

    @abstractmethod
    def look(self, first: FirstBlockCall, call: NetworkCall) -> tuple[Tensor, Any]:
        """Measure the signal in a call of the first block.

        Return the signal and the block's output, or ``None`` in place of the output if the block did not finish.
        """

    def forget(self) -> None:
        """Free the outputs of the blocks that ran for this thread's last measurement."""
        self._blocks.forget()

    def detach(self) -> None:
        """Remove everything that was put on the model."""
        self._blocks.remove()
        self._installed = False
        self._first_blocks = {}

    def _learn(self, call: NetworkCall) -> FirstBlockCall:
        """Find the first block that the sample reaches.

        The network runs once in full, then twice without its blocks: with the sample, and with another sample.
        """
        if not self._installed:
            self._blocks.install(find_blocks(self._model))
            self._installed = True
        with self._blocks.handled_by(ShapeRecorder()) as shapes:
            call.rehearse()
        sums: list[list[dict[str, tuple[float, ...]]]] = []
        try:
            for variant in (call, with_other_sample(self._model, call)):
                with self._blocks.handled_by(InputChecksums(shapes.placeholders)) as checksums:
                    variant.rehearse()
                sums.append(checksums.sums)
        except WRONG_PLACE as error:
            raise SignalError(f"the sample cannot be followed to the blocks: {error}") from error
        for index, (block_call, before, after) in enumerate(zip(shapes.trace().calls, *sums, strict=True)):
            streams = [name for name in block_call.sources if name is not None]
            if not all(math.isfinite(number) for name in streams for number in before[name]):
                raise SignalError("what reaches the blocks is not finite")
            reached = [name for name in streams if before[name] != after[name]]
            if reached:
                largest = max(reached, key=lambda name: before[name][0])
                return FirstBlockCall(shapes.placeholders, index, block_call, largest)
        raise SignalError(f"{type(self._model).__name__} has no block that takes its sample and passes it on")


class ModulatedInput(BlockSignal):
    """Input of the first weight matrix in the first block: its tokens, normalised and modulated.

    The block stops running as soon as the matrix is reached.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._matrices: dict[tuple[nn.Module, int], nn.Module] = {}  # by block and number of tokens

    def look(self, first: FirstBlockCall, call: NetworkCall) -> tuple[Tensor, Any]:
        """Run the block up to the matrix."""
        block = first.block_call.module
        plain = NetworkCall(block._call_impl, call.args, call.kwargs)  # a compiled block would not stop
        stream = tensor_arguments(block, call)[first.stream]
        tokens = stream.numel() // stream.shape[-1]
        if (block, tokens) not in self._matrices:
            with self._lock:
                self._matrices[block, tokens] = _first_matrix(block, plain, tokens)
        thread = threading.get_ident()

        def stop_there(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() == thread:
                raise _ReachedError(_first_tensor(args, kwargs))

        hook = self._matrices[block, tokens].register_forward_pre_hook(stop_there, with_kwargs=True)
        try:
            plain.rehearse()
        except _ReachedError as reached:
            return reached.value, None
        finally:
            hook.remove()
        raise SignalError(f"a {type(block).__name__} does not call the same layer each time")

    def detach(self) -> None:
        """Remove everything that was put on the model."""
        super().detach()
        self._matrices = {}


class FirstBlockChange(BlockSignal):
    """Residual of the first block: output minus input. The block does not run again in the same call."""

    def look(self, first: FirstBlockCall, call: NetworkCall) -> tuple[Tensor, Any]:
        """Run the block."""
        before = tensor_arguments(first.block_call.module, call)[first.stream]
        output = call.run()
        return flatten(output)[first.block_call.sources.index(first.stream)] - before, output


class _ReachedError(Exception):
    """Exception that stops a block at the layer sought."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _first_matrix(block: nn.Module, call: NetworkCall, tokens: int) -> nn.Module:
    """Return the first layer called in ``block`` with a weight matrix that receives all of its tokens.

    A layer qualifies if its input has at least ``tokens`` tokens.
    """
    matrices: list[nn.Module] = []
    thread = threading.get_ident()

    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = _first_tensor(args, kwargs)
        if threading.get_ident() == thread and value.is_floating_point() and value.numel() // value.shape[-1] >= tokens:
            matrices.append(layer)

    weights = {module: getattr(module, "weight", None) for module in block.modules()}
    layers = [module for module, weight in weights.items() if isinstance(weight, Tensor) and weight.dim() >= 2]
    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    try:
        call.rehearse()
    finally:
        for hook in hooks:
            hook.remove()
    if not matrices:
        raise SignalError(f"a {type(block).__name__} has no weight matrix that meets its tokens")
    return matrices[0]
