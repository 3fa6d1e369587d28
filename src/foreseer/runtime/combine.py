"""The only arithmetic on features: one weighted sum a skipped step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_WIDE = (torch.float32, torch.float64)


def weighted_sum(features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Sum ``weights[k] * features[k]``, accumulated in float32 (float64 for float64 features).

    Args:
        features: K >= 1 tensors of one shape, dtype and device.
        weights: K numbers.

    Returns:
        A new tensor of the features' shape, dtype and device.
    """
    dtype = features[0].dtype
    first = features[0] if dtype in _WIDE else features[0].to(torch.float32)
    total = first * weights[0]
    for feature, weight in zip(features[1:], weights[1:], strict=True):
        total.add_(feature, alpha=weight)
    return total if total.dtype == dtype else total.to(dtype)
