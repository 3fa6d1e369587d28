"""The features that later rows need, kept in their own dtype, on the device or in pinned host memory."""

from __future__ import annotations

import cmath
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Keep = Literal["device", "host"]
KEEPS: tuple[Keep, ...] = ("device", "host")
_HALF = (torch.float16, torch.bfloat16)
_LARGE = 2**18  # elements


@dataclass(slots=True)
class Total:
    """A number that is being read from a device without waiting for it.

    Until it has arrived it counts as finite.

    Attributes:
        value: the number, on the host once it is ready.
        event: marks its arrival; ``None`` where it is on the host already.
    """

    value: Tensor
    event: torch.cuda.Event | None = None

    @classmethod
    def of(cls, total: Tensor) -> Total:
        """Begin to read ``total``."""
        if not total.is_cuda:
            return cls(total)
        host = torch.empty_like(total, device="cpu", pin_memory=True).copy_(total, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return cls(host, event)


@dataclass(slots=True)
class Kept:
    """The feature of one step.

    Attributes:
        tensors: the stored tensors.
        devices: devices to which host copies return; ``None`` if the tensors stay on theirs.
        versions: how often each was written to; ``None`` for inference tensors, which are copies and count no writes.
        totals: numbers that are finite exactly where every element is; ``None`` once read.
        scale: the feature is ``scale`` times the tensors.
    """

    tensors: list[Tensor]
    devices: list[torch.device] | None
    versions: list[int] | None
    totals: list[Total] | None
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int) -> Tensor:
        """One of the tensors, on the device where it was computed."""
        tensor = self.tensors[index]
        return tensor if self.devices is None else tensor.to(self.devices[index], non_blocking=True)


@dataclass
class FeatureStore:
    """Features by step. One feature is a list of tensors: a network may return several (video and audio).

    Args:
        keep: ``"device"`` holds references to what the network returned; ``"host"`` copies to pinned memory.
    """

    keep: Keep = "device"
    _kept: dict[int, Kept] = field(default_factory=dict)

    def put(self, step: int, tensors: Sequence[Tensor], scale: float = 1.0) -> None:
        """Keep the feature of ``step``, which is ``scale`` times ``tensors``."""
        totals = [Total.of(total) for total in _by_device([_total(tensor) for tensor in tensors])]
        on_host = self.keep == "host"
        kept = [_to_host(tensor) if on_host else _owned(tensor) for tensor in tensors]
        versions = None if any(tensor.is_inference() for tensor in kept) else [tensor._version for tensor in kept]
        devices = [tensor.device for tensor in tensors] if on_host else None
        self._kept[step] = Kept(kept, devices, versions, totals, scale)

    def get(self, step: int) -> Kept:
        """The feature of ``step``; whoever has it may go on using it when it is dropped."""
        return self._kept[step]

    def terms(self, steps: Sequence[int], weights: Sequence[float]) -> tuple[list[Kept], list[float]]:
        """The tensors kept for ``steps``, and ``weights`` of their features as weights of these tensors."""
        kept = [self._kept[step] for step in steps]
        return kept, [weight * feature.scale for weight, feature in zip(weights, kept, strict=True)]

    def why_unusable(self, *steps: int) -> str | None:
        """Reason why the feature of one of ``steps`` must not be used: missing, not finite, changed."""
        for step in steps:
            kept = self._kept.get(step)
            if kept is None:
                return f"the feature of step {step} is missing"
            if kept.totals is not None:
                pending = []
                for total in kept.totals:
                    if total.value.is_meta:
                        return f"the feature of step {step} is on the meta device, which holds no numbers"
                    if total.event is not None and not total.event.query():
                        pending.append(total)
                    elif not cmath.isfinite(total.value.item()):
                        return f"the feature of step {step} is not finite"
                kept.totals = pending or None
            if kept.versions is not None:
                for tensor, version in zip(kept.tensors, kept.versions, strict=True):
                    if tensor._version != version:
                        return f"the feature of step {step} was changed in place after it was computed"
        return None

    def trust(self) -> None:
        """Use all features without checking that they are finite, since processes must decide alike."""
        for kept in self._kept.values():
            kept.totals = None

    def drop(self, steps: Sequence[int]) -> None:
        """Free the features of ``steps``."""
        for step in steps:
            self._kept.pop(step, None)

    def clear(self) -> None:
        """Free everything."""
        self._kept.clear()

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps whose features are held."""
        return tuple(self._kept)

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        return sum(tensor.nbytes for kept in self._kept.values() for tensor in kept.tensors)

    def __len__(self) -> int:
        return len(self._kept)


def _total(tensor: Tensor) -> Tensor:
    """Return a number that is finite if every element is, from one pass without a temporary.

    Half precision is summed in float32, where it cannot overflow. On a CPU that sum would copy a large half-precision
    tensor, so the difference of its extremes is used instead. A feature whose sum overflows float32 also
    counts as not finite.
    """
    if tensor.dtype not in _HALF:
        return tensor.sum()
    if tensor.is_cpu and tensor.numel() > _LARGE:
        low, high = torch.aminmax(tensor)
        return high.to(torch.float32) - low.to(torch.float32)
    return tensor.sum(dtype=torch.float32)


def _by_device(totals: list[Tensor]) -> list[Tensor]:
    """Return one sum per device, since reading a number waits for its device."""
    sums: dict[torch.device, Tensor] = {}
    for total in totals:
        known = sums.get(total.device)
        sums[total.device] = total if known is None else known + total
    return list(sums.values())


def _owned(tensor: Tensor) -> Tensor:
    """Return ``tensor``, or a copy if it is a view of a larger tensor or an inference tensor.

    A view would keep the larger tensor alive, and an inference tensor does not count writes.
    """
    if tensor.is_inference() or tensor.untyped_storage().nbytes() > tensor.nbytes:
        return tensor.clone()
    return tensor


def _to_host(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor.clone()
    host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)
