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


def psnr_uint8_wrapped(image: Float[np.ndarray, "*shape"], reference: Float[np.ndarray, "*shape"]) -> float:
    """What several published scripts call PSNR: differences of uint8 images, which wrap around; several dB too high.

    For comparison with their tables only.
    """
    pixels = [np.uint8(np.round(255 * np.clip(one, 0, 1))) for one in (image, reference)]
    wrapped = np.float64((pixels[0] - pixels[1]) ** 2)  # both operations wrap around
    error = float(np.mean(wrapped))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def temporal_psnr(video: Float[np.ndarray, "F H W C"], reference: Float[np.ndarray, "F H W C"]) -> float:
    r"""How well motion is kept: PSNR in dB of the differences between neighbouring frames.

    $-10 \log_{10} \mathrm{mean} ((x_{t+1} - x_t) - (r_{t+1} - r_t))^2$ with a data range of 1: an error that stays the
    same in all frames does not count, flicker does.

    Raises:
        ValueError: there is one frame only.
    """
    if len(video) < 2:
        raise ValueError("A video of one frame has no motion.")
    return psnr(np.diff(np.float64(video), axis=0), np.diff(np.float64(reference), axis=0))
