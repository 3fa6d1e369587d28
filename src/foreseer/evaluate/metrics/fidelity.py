"""Measures of fidelity by name, taken in floating point once every entry has drawn a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from foreseer.evaluate.metrics.base import Measure
from foreseer.evaluate.metrics.similarity import psnr, psnr_uint8_wrapped, relative_error, ssim, temporal_psnr
from foreseer.evaluate.sampling.environment import version_of


@dataclass(frozen=True)
class Fidelity:
    """Measure of a sample against its reference; higher is better.

    Attributes:
        name: key.
        title: title in tables.
        formula: from picture and reference, shape (H, W, C) in [0, 1]; if ``temporal`` from videos, shape (F, H, W, C).
        temporal: whether it is defined for videos only; other measures of a video are means over its frames.
        default: whether it is shown unless measures are named.
    """

    name: str
    title: str
    formula: Callable[[np.ndarray, np.ndarray], float]
    temporal: bool = False
    default: bool = True

    def measure(self, sample: np.ndarray, reference: np.ndarray) -> float | None:
        """Measure a picture or video; ``None`` where the measure is not defined."""
        try:
            if self.temporal or sample.ndim == 3:
                return _number(self.formula(sample, reference))
            values = [self.formula(frame, true) for frame, true in zip(sample, reference, strict=True)]
            return _number(float(np.mean(values)))
        except ValueError:  # too small for the window, a single frame, different shapes
            return None

    def applies(self, video: bool) -> bool:
        """Return whether the column is shown by default for such samples."""
        return self.default and (video or not self.temporal)

    def column(self, missing: str | None = None) -> Measure:
        """Make the column of the table."""
        source = "numpy" if self.name.startswith("psnr_") else f"scikit-image {version_of('scikit-image')}"
        return Measure(self.name, self.title, "higher", missing, source)


FIDELITY: dict[str, Fidelity] = {
    measure.name: measure
    for measure in (
        Fidelity("psnr", "PSNR, dB", psnr),
        Fidelity("ssim", "SSIM", ssim),
        Fidelity("temporal_psnr", "Temporal PSNR (frame differences), dB", temporal_psnr, temporal=True),
        Fidelity("psnr_uint8_wrapped", "uint8 wrap-around PSNR, dB", psnr_uint8_wrapped, default=False),
    )
}


def fidelity_of(sample: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """Take every measure of a sample, shape (H, W, C) or (F, H, W, C); none if a value is not finite."""
    if sample.shape != reference.shape or not (np.all(np.isfinite(sample)) and np.all(np.isfinite(reference))):
        return {}
    measures = (measure for measure in FIDELITY.values() if not measure.temporal or sample.ndim == 4)
    return {measure.name: measure.measure(sample, reference) for measure in measures}


def latent_errors(latents: Mapping[int, np.ndarray], reference: Mapping[int, np.ndarray]) -> dict[str, float]:
    """Relative errors of the sample by number of steps taken; the last only if step counts differ.

    Args:
        latents: samples of the scheduler by number of steps taken, the last included.
        reference: the reference's samples.
    """
    last, last_reference = max(latents), max(reference)
    pairs = {last_reference: last} if last != last_reference else {step: step for step in reference if step in latents}
    errors = {}
    for reference_step, step in sorted(pairs.items()):
        latent, true = latents[step], reference[reference_step]
        if latent.shape == true.shape and np.all(np.isfinite(latent)) and np.any(true):
            errors[str(reference_step)] = relative_error(latent, true)
    return errors


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
