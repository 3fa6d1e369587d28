"""How far a forecast was from the feature that the network gave, image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor


def mean_squares(tensors: Sequence[Tensor]) -> Float64[np.ndarray, " B"]:
    """Mean square of each image's part of a feature: of each entry of the first dimension.

    Tensors of one dimension, or whose first dimensions differ, count as one image.
    """
    counts = {len(tensor) if tensor.dim() > 1 else 1 for tensor in tensors}
    images = counts.pop() if len(counts) == 1 else 1
    wide = [tensor.to(torch.promote_types(tensor.dtype, torch.float32)).reshape(images, -1) for tensor in tensors]
    squares = torch.stack([torch.linalg.vector_norm(one, dim=1).double().square() for one in wide]).sum(0)
    return squares.cpu().numpy() / sum(one.shape[1] for one in wide)


def squared_errors(feature: Sequence[Tensor], forecast: Sequence[Tensor]) -> Float64[np.ndarray, " B"]:
    """Mean square of the difference, each image's."""
    return mean_squares([true - found for true, found in zip(feature, forecast, strict=True)])
