"""Probes inside the network: what its first block sees, taken at every step before it is decided whether that computes.

A look runs the network up to the first block that its sample reaches, and gives stand-ins for all blocks after it: it
costs what embedders and head do. What ran of the blocks is remembered, so that it does not run again in the same call.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.bypass import WRONG_PLACE
from foreseer.attach.chain import given_tensors
from foreseer.attach.containers import flatten, signature
from foreseer.attach.hooks import Forward
from foreseer.attach.looking import FirstBlockCall, Look, Remembering, Shapes, Sums, altered
from foreseer.attach.seam import find_blocks
from foreseer.gate import SignalError


class InsideProbe(ABC):
    """Looks at the first block that the sample reaches; found by watching, no class names decide.

    Args:
        model: the denoiser.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._blocks = Remembering(model)
        self._known: dict[tuple[Any, ...], FirstBlockCall] = {}
        self._installed = False
        self._lock = threading.RLock()

    def measure(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
        """The signal of one call.

        Raises:
            SignalError: gradients are on, no block carries the sample on, or the blocks' order changes every time.
        """
        if torch.is_grad_enabled():
            raise SignalError("gradients are enabled: sample under torch.no_grad()")
        kind = signature(args, kwargs)
        for first in (self._known.get(kind), None):
            if first is None:
                with self._lock:
                    first = self._known[kind] = self._learn(forward, args, kwargs)  # noqa: PLW2901
            look = Look(first, self.look, self._blocks.forget())
            with self._blocks.handled_by(look):
                forward(*args, **kwargs)
            if look.signal is not None and not look.lost:
                return [look.signal]
        raise SignalError("the network calls its blocks in another order each time")

    @abstractmethod
    def look(
        self, first: FirstBlockCall, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        """The signal, taken in a call of the first block; and that block's output, ``None`` where it was cut short."""

    def detach(self) -> None:
        """Remove everything that was put on the model."""
        self._blocks.remove()
        self._installed = False
        self._known = {}

    def _learn(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FirstBlockCall:
        """Watch the network; then, its blocks left out, see which are reached by another sample."""
        if not self._installed:
            self._blocks.install(find_blocks(self._model))
            self._installed = True
        with self._blocks.handled_by(Shapes()) as shapes:
            forward(*args, **kwargs)
        seen: list[list[dict[str, tuple[float, ...]]]] = []
        try:
            for given, named in ((args, kwargs), altered(self._model, args, kwargs)):
                with self._blocks.handled_by(Sums(shapes.seen)) as sums:
                    forward(*given, **named)
                seen.append(sums.sums)
        except WRONG_PLACE as error:
            raise SignalError(f"the sample cannot be followed to the blocks: {error}") from error
        for index, (link, one, other) in enumerate(zip(shapes.chain().links, *seen, strict=True)):
            streams = [name for name in link.sources if name is not None]
            if not all(math.isfinite(number) for name in streams for number in one[name]):
                raise SignalError("what reaches the blocks is not finite")
            reached = [name for name in streams if one[name] != other[name]]
            if reached:
                largest = max(reached, key=lambda name: one[name][0])
                return FirstBlockCall(shapes.seen, index, link, largest)
        raise SignalError(f"{type(self._model).__name__} has no block that takes its sample and hands it on")


class ModulatedInput(InsideProbe):
    """What the first weight matrix that meets the first block's tokens is given: these, normalised and modulated.

    The block is left as soon as the matrix is reached.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._matrices: dict[nn.Module, nn.Module] = {}

    def look(
        self, first: FirstBlockCall, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        """Run the block up to the matrix."""
        block = first.link.module
        plain = block._call_impl  # not what was compiled: it would not stop
        if block not in self._matrices:
            stream = given_tensors(block, args, kwargs)[first.stream]
            with self._lock:
                self._matrices[block] = _first_matrix(block, plain, args, kwargs, stream)
        thread = threading.get_ident()

        def stop_there(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if threading.get_ident() == thread:
                raise _ReachedError(_first_tensor(given, named))

        hook = self._matrices[block].register_forward_pre_hook(stop_there, with_kwargs=True)
        try:
            plain(*args, **kwargs)
        except _ReachedError as reached:
            return reached.value, None
        finally:
            hook.remove()
        raise SignalError(f"a {type(block).__name__} does not call the same layer each time")

    def detach(self) -> None:
        """Remove everything that was put on the model."""
        super().detach()
        self._matrices = {}


class FirstBlockChange(InsideProbe):
    """What the first block changes: its output minus its input. It has run then, and need not run again."""

    def look(
        self, first: FirstBlockCall, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        """Run the block."""
        before = given_tensors(first.link.module, args, kwargs)[first.stream]
        output = forward(*args, **kwargs)
        return flatten(output)[first.link.sources.index(first.stream)] - before, output


class _ReachedError(Exception):
    """Leaves a block at the layer looked for."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _first_matrix(
    block: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], stream: Tensor
) -> nn.Module:
    """The first layer of ``block`` with a weight matrix that is given at least as many tokens as ``stream`` has."""
    found: list[nn.Module] = []
    tokens, thread = stream.numel() // stream.shape[-1], threading.get_ident()

    def before(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        value = _first_tensor(given, named)
        if threading.get_ident() == thread and value.is_floating_point() and value.numel() // value.shape[-1] >= tokens:
            found.append(layer)

    weights = {one: getattr(one, "weight", None) for one in block.modules()}
    layers = [one for one, weight in weights.items() if isinstance(weight, Tensor) and weight.dim() >= 2]
    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    try:
        forward(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise SignalError(f"a {type(block).__name__} has no weight matrix that meets its tokens")
    return found[0]
