"""Helpers that both trainers share: clock, threads, checkpoints, learning rate."""

import os
import time
from pathlib import Path

import torch

WORK = Path(__file__).with_name("work")
THREADS_CHECK_STEPS = 20


class Budget:
    """A training time budget in minutes that survives an interrupted run."""

    def __init__(self, minutes, spent_seconds=0.0):
        self.total = minutes * 60
        self._start = time.monotonic() - spent_seconds

    def spent(self):
        """Return the seconds trained so far, earlier runs included."""
        return time.monotonic() - self._start

    def fraction(self):
        """Return the share of the budget that is spent, at most 1."""
        return min(1.0, self.spent() / self.total)


def refresh_threads(path, step):
    """Every few steps, set torch's thread count to the number that the file holds."""
    if path is None or step % THREADS_CHECK_STEPS:
        return
    try:
        wanted = int(Path(path).read_text())
    except (OSError, ValueError):
        return
    if wanted > 0 and wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)


def scheduled_rate(peak, step, warmup_steps, fraction, decay_share):
    """Learning rate: linear warm-up, constant, then linear to 0 in the budget's last share."""
    warmup = min(1.0, (step + 1) / warmup_steps)
    decay = min(1.0, (1.0 - fraction) / decay_share)
    return peak * warmup * decay


def set_rate(optimizer, rate):
    """Give every parameter group of the optimizer the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def save_atomically(state, path):
    """Write a checkpoint so that a kill in the middle leaves the previous one intact."""
    path = Path(path)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def to_unit(images):
    """Turn uint8 images (n, h, w, 3), or videos (n, f, h, w, 3), into float (n, 3, ...) in [-1, 1]."""
    return torch.from_numpy(images).movedim(-1, 1).contiguous().float() / 127.5 - 1.0


def to_uint8(images):
    """Turn images (n, 3, h, w) or videos (n, 3, f, h, w) in [-1, 1] into uint8, colours last."""
    images = ((images.float() + 1.0) * 127.5).round().clamp(0, 255)
    return images.movedim(1, -1).to(torch.uint8).numpy()


def as_pictures(images):
    """Fold the frames of videos (n, 3, f, h, w) into the batch; pictures (n, 3, h, w) stay as they are."""
    return images.transpose(1, 2).flatten(0, 1) if images.ndim == 5 else images
