"""Probes: what a gate looks at inside the network at every step, before it is decided whether the step computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from foreseer.attach.inside import FirstBlockChange, ModulatedInput
from foreseer.attach.site import Forward


@runtime_checkable
class Probe(Protocol):
    """Takes a gate's signal at one denoiser."""

    def measure(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
        """The signal of one call, for a small part of the network's work.

        Raises:
            SignalError: it cannot be had at this call.
        """
        ...

    def detach(self) -> None:
        """Remove everything that was put on the model."""
        ...


# By the gate's ``signal``: what puts a probe on a denoiser.
PROBES: dict[str, Callable[[nn.Module], Probe]] = {
    "modulated_input": ModulatedInput,
    "first_block": FirstBlockChange,
}
