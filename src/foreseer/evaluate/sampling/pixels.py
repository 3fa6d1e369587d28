"""Conversion of samples to pictures with 8 bits per channel."""

from __future__ import annotations

import numpy as np

FRAME_MILLISECONDS = 62  # per frame of a video


def as_bytes(sample: np.ndarray) -> np.ndarray:
    """Convert a picture or video in [0, 1] to 8-bit frames, shape (F, H, W, 3).

    NaN becomes black; alpha is left out.
    """
    frames = sample if sample.ndim == 4 else sample[None]
    bounded = np.clip(np.nan_to_num(frames[..., :3], nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    return np.round(255 * np.broadcast_to(bounded, (*bounded.shape[:3], 3))).astype(np.uint8)
