"""The only arithmetic on features: one weighted sum per skipped step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_FLOAT16_MAX = torch.finfo(torch.float16).max
# Elements of a float32 sum that fits in a processor's cache, in memory that the allocator reuses for the next piece.
_PIECE = 2**19


def weighted_sum(features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Sum ``weights[k] * features[k]``, accumulated in float32 (float64 for float64 features).

    Args:
        features: K >= 1 tensors of one shape, dtype and device.
        weights: K numbers.

    Returns:
        A new tensor of the features' shape, dtype and device. Float16 results are clamped to float16's range, since an
        infinity would spoil all later steps.
    """
    first = features[0]
    dtype = first.dtype
    wide = torch.promote_types(dtype, torch.float32)
    if dtype != wide:
        if first.numel() > _PIECE and first.is_cpu and all(feature.is_contiguous() for feature in features):
            return _piece_by_piece(features, weights, wide)
        first = first.to(wide)
    total = first * weights[0]
    for feature, weight in zip(features[1:], weights[1:], strict=True):
        total.add_(feature, alpha=weight)
    return total if total.dtype == dtype else _within_range(total, dtype).to(dtype)


def sum_onto(base: Tensor, scale: float, features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """``base + scale * weighted_sum(features, weights)``, without a pass over memory for the sum alone.

    Args:
        base: a tensor of the features' shape; it decides the result's dtype.
        scale: factor of the sum.
        features: K >= 1 tensors of one shape, dtype and device.
        weights: K numbers.
    """
    wide = base.dtype == features[0].dtype and base.dtype in (torch.float32, torch.float64)
    if not wide or base.shape != features[0].shape:
        return base + (scale * weighted_sum(features, weights)).to(base.dtype)
    total = torch.add(base, features[0], alpha=scale * weights[0])
    for feature, weight in zip(features[1:], weights[1:], strict=True):
        total.add_(feature, alpha=scale * weight)
    return total


def _within_range(total: Tensor, dtype: torch.dtype) -> Tensor:
    """Clamp ``total`` in place to the range of ``dtype``."""
    return total.clamp_(-_FLOAT16_MAX, _FLOAT16_MAX) if dtype == torch.float16 else total


def _piece_by_piece(features: Sequence[Tensor], weights: Sequence[float], wide: torch.dtype) -> Tensor:
    """Return the same sum bit for bit, without a full-size tensor of the wider dtype."""
    result = torch.empty_like(features[0])
    pieces = [feature.view(-1).split(_PIECE) for feature in features]
    for target, first, *others in zip(result.view(-1).split(_PIECE), *pieces, strict=True):
        total = first.to(wide).mul_(weights[0])
        for piece, weight in zip(others, weights[1:], strict=True):
            total.add_(piece, alpha=weight)
        target.copy_(_within_range(total, target.dtype))
    return result
