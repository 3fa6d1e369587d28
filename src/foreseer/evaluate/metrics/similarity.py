"""Formulas of fidelity: how close a sample is to its reference."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float


def psnr(image: Float[np.ndarray, "*shape"], reference: Float[np.ndarray, "*shape"]) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1]; infinite for equal images.

    Differences are taken in floating point: differences of uint8 images wrap around and read several dB too high.
    """
    from skimage.metrics import peak_signal_noise_ratio

    if np.array_equal(image, reference):
        return math.inf
    return float(peak_signal_noise_ratio(np.float64(reference), np.float64(image), data_range=1.0))


def ssim(image: Float[np.ndarray, "H W C"], reference: Float[np.ndarray, "H W C"]) -> float:
    """Structural similarity of colour images in [0, 1], mean over channels (scikit-image, 7 x 7 window)."""
    from skimage.metrics import structural_similarity

    value = structural_similarity(np.float64(reference), np.float64(image), channel_axis=-1, data_range=1.0)
    return float(np.asarray(value))


def relative_error(sample: np.ndarray, reference: np.ndarray) -> float:
    """Euclidean norm of the difference over the norm of the reference, both flattened."""
    return float(np.linalg.norm(np.float64(sample) - np.float64(reference)) / np.linalg.norm(np.float64(reference)))


def psnr_uint8_wrapped(image: Float[np.ndarray, "*shape"], reference: Float[np.ndarray, "*shape"]) -> float:
    """PSNR on wrapped differences of uint8 images, several dB too high.

    Several published scripts compute it; use it to compare with their tables only.
    """
    pixels = [np.uint8(np.round(255 * np.clip(array, 0, 1))) for array in (image, reference)]
    wrapped = np.float64((pixels[0] - pixels[1]) ** 2)  # both operations wrap around
    error = float(np.mean(wrapped))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def temporal_psnr(video: Float[np.ndarray, "F H W C"], reference: Float[np.ndarray, "F H W C"]) -> float:
    r"""PSNR in dB of the differences between neighbouring frames: how well motion is kept.

    $-10 \log_{10} \mathrm{mean} ((x_{t+1} - x_t) - (r_{t+1} - r_t))^2$ with a data range of 1: an error that
    is the same in all frames does not count, flicker does.

    Raises:
        ValueError: the video has one frame.
    """
    if len(video) < 2:
        raise ValueError("temporal_psnr needs a video of at least 2 frames; received 1.")
    return psnr(np.diff(np.float64(video), axis=0), np.diff(np.float64(reference), axis=0))
