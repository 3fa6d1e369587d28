"""How close a sample is to its reference. Each measure is the field's own package's."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float


def psnr(image: Float[np.ndarray, "*shape"], reference: Float[np.ndarray, "*shape"]) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1]; infinite where they are equal.

    Differences are taken in floating point: those of uint8 images wrap around and read several dB too high.
    """
    from skimage.metrics import peak_signal_noise_ratio

    if np.array_equal(image, reference):
        return math.inf
    return float(peak_signal_noise_ratio(np.float64(reference), np.float64(image), data_range=1.0))


def ssim(image: Float[np.ndarray, "H W C"], reference: Float[np.ndarray, "H W C"]) -> float:
    """Structural similarity of colour images in [0, 1], averaged over channels (scikit-image, 7 x 7 window)."""
    from skimage.metrics import structural_similarity

    value = structural_similarity(np.float64(reference), np.float64(image), channel_axis=-1, data_range=1.0)
    return float(np.asarray(value))


def relative_error(sample: np.ndarray, reference: np.ndarray) -> float:
    """Norm of the difference over the norm of the reference, both flattened."""
    return float(np.linalg.norm(np.float64(sample) - np.float64(reference)) / np.linalg.norm(np.float64(reference)))
