"""Measures against the reference, taken in floating point as soon as a prompt is drawn by every contender."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from foreseer.evaluate.environment import version_of
from foreseer.evaluate.measures import psnr, psnr_uint8_wrapped, relative_error, ssim, temporal_psnr
from foreseer.evaluate.results import Measure


@dataclass(frozen=True)
class Fidelity:
    """One measure of a picture against its reference.

    Attributes:
        name: key.
        title: what tables print.
        of: from picture and reference, shape (H, W, C) in [0, 1]; from videos, shape (F, H, W, C), where ``temporal``.
        temporal: whether it is of whole videos; else that of a video is the mean over its frames.
        default: whether it is shown without being asked for.
    """

    name: str
    title: str
    of: Callable[[np.ndarray, np.ndarray], float]
    temporal: bool = False
    default: bool = True

    def measure(self, sample: np.ndarray, reference: np.ndarray) -> float | None:
        """The measure of a picture or video; ``None`` where it is not defined."""
        try:
            if self.temporal or sample.ndim == 3:
                return _number(self.of(sample, reference))
            frames = [self.of(one, true) for one, true in zip(sample, reference, strict=True)]
            return _number(float(np.mean(frames)))
        except ValueError:  # too small for a window, one frame only, other shapes
            return None

    def column(self, missing: str | None = None) -> Measure:
        """The column of the table."""
        source = "numpy" if self.name.startswith("psnr_") else f"scikit-image {version_of('scikit-image')}"
        return Measure(self.name, self.title, "higher", missing, source)


FIDELITY: dict[str, Fidelity] = {
    one.name: one
    for one in (
        Fidelity("psnr", "PSNR, dB", psnr),
        Fidelity("ssim", "SSIM", ssim),
        Fidelity("temporal_psnr", "Temporal PSNR (frame differences), dB", temporal_psnr, temporal=True),
        Fidelity("psnr_uint8_wrapped", "uint8 wrap-around PSNR, dB", psnr_uint8_wrapped, default=False),
    )
}


def fidelity_of(sample: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """Every measure of a sample, shape (H, W, C) or (F, H, W, C); nothing that is not finite is measured."""
    if sample.shape != reference.shape or not (np.all(np.isfinite(sample)) and np.all(np.isfinite(reference))):
        return {}
    taken = (one for one in FIDELITY.values() if not one.temporal or sample.ndim == 4)
    return {one.name: one.measure(sample, reference) for one in taken}


def latent_errors(latents: Mapping[int, np.ndarray], reference: Mapping[int, np.ndarray]) -> dict[str, float]:
    """Relative errors by the step after which they were taken; of a run with other steps the end alone.

    Args:
        latents: samples of the scheduler by the number of steps taken, the last included.
        reference: the same of the reference.
    """
    last, true_last = max(latents), max(reference)
    pairs = {true_last: last} if last != true_last else {step: step for step in reference if step in latents}
    errors = {}
    for true_step, step in sorted(pairs.items()):
        mine, true = latents[step], reference[true_step]
        if mine.shape == true.shape and np.all(np.isfinite(mine)) and np.any(true):
            errors[str(true_step)] = relative_error(mine, true)
    return errors


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
