"""The features that later rows need, kept in their own dtype, on the device or in pinned host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Keep = Literal["device", "host"]
KEEPS: tuple[Keep, ...] = ("device", "host")


@dataclass
class _Kept:
    tensors: list[Tensor]
    devices: list[torch.device]
    versions: list[int | None]
    finite: list[Tensor]


@dataclass
class FeatureStore:
    """Features by step. One feature is a list of tensors: a network may return several (video and audio).

    Args:
        keep: ``"device"`` holds references to what the network returned; ``"host"`` copies to pinned memory.
    """

    keep: Keep = "device"
    _kept: dict[int, _Kept] = field(default_factory=dict)

    def put(self, step: int, tensors: Sequence[Tensor]) -> None:
        """Keep the feature of ``step``."""
        finite = [torch.isfinite(tensor).all() for tensor in tensors]
        if self.keep == "host":
            kept = [_to_host(tensor) for tensor in tensors]
        else:
            kept = [_owned(tensor) for tensor in tensors]
        devices = [tensor.device for tensor in tensors]
        self._kept[step] = _Kept(kept, devices, [_version(tensor) for tensor in kept], finite)

    def get(self, step: int, tensor: int) -> Tensor:
        """Tensor number ``tensor`` of the feature of ``step``, on the device where it was computed."""
        kept = self._kept[step]
        return kept.tensors[tensor].to(kept.devices[tensor], non_blocking=True)

    def count(self, step: int) -> int:
        """How many tensors the feature of ``step`` has."""
        return len(self._kept[step].tensors)

    def why_unusable(self, step: int) -> str | None:
        """Why the feature of ``step`` must not be used, or ``None``: missing, not finite, or changed since."""
        kept = self._kept.get(step)
        if kept is None:
            return f"the feature of step {step} is missing"
        if kept.finite:
            if not all(bool(flag) for flag in kept.finite):
                return f"the feature of step {step} is not finite"
            kept.finite = []
        if [_version(tensor) for tensor in kept.tensors] != kept.versions:
            return f"the feature of step {step} was changed in place after it was computed"
        return None

    def drop_all_but(self, steps: Sequence[int]) -> None:
        """Free the features of all other steps."""
        for step in [kept for kept in self._kept if kept not in steps]:
            del self._kept[step]

    def clear(self) -> None:
        """Free everything."""
        self._kept.clear()

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        return sum(tensor.nbytes for kept in self._kept.values() for tensor in kept.tensors)

    def __len__(self) -> int:
        return len(self._kept)


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _owned(tensor: Tensor) -> Tensor:
    """``tensor`` itself where that is safe and frugal, else a copy.

    A view would keep the larger tensor behind it alive, and an inference tensor does not say when it is written to.
    """
    if tensor.is_inference() or tensor.untyped_storage().nbytes() > tensor.nbytes:
        return tensor.clone()
    return tensor


def _to_host(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor.clone()
    host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)
