"""Shape measure: how near a drawn picture comes to a real rendering of its caption.

Every size and place at which the icon can be drawn on its background is tried; the figure is the
PSNR against the best of these renderings. A torn outline or a missing eye costs several decibels,
another size or place costs nothing.
"""

import numpy as np
import torch
from torch.nn import functional

from icons import COLOURS


def templates(icon, colour):
    """Yield what the icon adds to the background, float (3, height, width), for every size."""
    background = np.array(COLOURS[colour], np.float32)
    for picture in icon.resized.values():
        pixels = np.asarray(picture).astype(np.float32)
        added = (pixels[..., :3] - background) * (pixels[..., 3:] / 255.0)
        yield torch.from_numpy(added).permute(2, 0, 1)


def shape_psnr(image, icon, colour):
    """PSNR in dB of a uint8 image (64, 64, 3) against the best-aligned rendering of its caption.

    With D the image minus the background and T what the icon adds to it at some place, the squared error
    is |D|^2 - 2 <D, T> + |T|^2; a correlation gives <D, T> for all places of one size at once.
    """
    background = torch.tensor(COLOURS[colour], dtype=torch.float32)
    difference = (torch.from_numpy(image.astype(np.float32)) - background).permute(2, 0, 1)
    energy, least = difference.square().sum(), float("inf")
    for added in templates(icon, colour):
        overlap = functional.conv2d(difference[None], added[None])
        least = min(least, (energy - 2.0 * overlap.max() + added.square().sum()).item())
    return 10.0 * np.log10(255.0**2 * difference.numel() / max(least, 1e-3))


def summary(values):
    """Return the median and the tenth percentile of PSNR values in dB."""
    return {"median": round(float(np.median(values)), 2), "tenth_percentile": round(float(np.quantile(values, 0.1)), 2)}
