"""Write the sound that a pipeline returns, by itself or beside a video, as WAV."""

from __future__ import annotations

import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.files.writing import write_atomically
from foreseer.pipelines import sounds

# Where pipelines keep the number of samples per second of the sound that they return.
_RATES = (
    *(("vocoder", "output_sampling_rate"), ("sound_tokenizer", "sampling_rate")),
    *(("vae", "sampling_rate"), ("audio_vae", "sample_rate"), ("audio_vae", "sampling_rate")),
)
USUAL_RATE = 44_100


def sound_of(output: Any) -> np.ndarray | None:
    """Return the first sound of a pipeline's output, shape (channels, samples), ``None`` if it has none."""
    batch = sounds(output)
    if batch is None:
        return None
    first = batch[0]
    is_tensor = hasattr(first, "detach")  # this module does not import torch
    values = first.detach().float().cpu().numpy() if is_tensor else np.asarray(first, np.float32)
    if values.ndim > 1 and values.shape[0] > values.shape[-1]:  # samples first, as files have them
        return values.reshape(values.shape[0], -1).T
    return values.reshape(-1, values.shape[-1])


def sound_rate(pipe: Any) -> int:
    """Return the samples per second of a pipeline's sound; 44,100 if no part of it gives the number."""
    for part, name in _RATES:
        rate = getattr(getattr(getattr(pipe, part, None), "config", None), name, None)
        if isinstance(rate, int | float):
            return int(rate)
    return USUAL_RATE


def write_sound(sound: np.ndarray, rate: int, path: Path) -> None:
    """Write 16-bit WAV, atomically; creates the folder.

    Args:
        sound: shape (channels, samples), values in [-1, 1]; others are clipped.
        rate: samples per second.
        path: the file.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(sound))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(sound, -1, 1).T * 32767).round().astype("<i2").tobytes())
    write_atomically(path, buffer.getvalue())
