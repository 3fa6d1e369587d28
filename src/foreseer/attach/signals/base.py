"""What gates measure inside the network at every step, before it is decided whether the step computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from foreseer.attach.network.call import NetworkCall
from foreseer.attach.signals.block_signal import FirstBlockChange, ModulatedInput


@runtime_checkable
class SignalProbe(Protocol):
    """Measures a gate's signal at one denoiser."""

    def measure(self, call: NetworkCall) -> Sequence[Tensor]:
        """The signal of one call, for a small part of the network's work.

        Raises:
            SignalError: it cannot be measured at this call.
        """
        ...

    def forget(self) -> None:
        """Free what the measurement of this thread's last call left for the rest of that call."""
        ...

    def detach(self) -> None:
        """Remove everything that was put on the model."""
        ...


# By the name in a gate's ``signal``: what puts a probe on a denoiser.
SIGNALS: dict[str, Callable[[nn.Module], SignalProbe]] = {
    "modulated_input": ModulatedInput,
    "first_block": FirstBlockChange,
}
