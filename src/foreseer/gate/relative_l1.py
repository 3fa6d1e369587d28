"""How far a signal moved, as TeaCache and first-block caches measure it."""

from __future__ import annotations

import math

from torch import Tensor

from foreseer.gate.base import SignalError


def relative_change(now: Tensor, before: Tensor) -> float:
    """The relative L1 distance |now - before| / |before|, means over all elements, a batch as one.

    Raises:
        SignalError: it is not finite, or the shapes differ.

    >>> import torch
    >>> relative_change(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
    0.75
    """
    if now.shape != before.shape:
        raise SignalError("the gate's signal changed its shape during a run")
    change = float((now - before).abs().float().mean() / before.abs().float().mean())
    if not math.isfinite(change):
        raise SignalError("the gate's signal is not finite")
    return change
