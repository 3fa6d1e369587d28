"""Samples as pictures of 8 bits a channel."""

from __future__ import annotations

import numpy as np

FRAME_MILLISECONDS = 62  # of a video's frame


def as_bytes(sample: np.ndarray) -> np.ndarray:
    """A picture or video in [0, 1] as frames of 8 bits, shape (F, H, W, 3); what is not finite becomes black."""
    frames = sample if sample.ndim == 4 else sample[None]
    bounded = np.clip(np.nan_to_num(frames, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    return np.round(255 * np.broadcast_to(bounded, (*bounded.shape[:3], 3))).astype(np.uint8)
