"""Time the denoising loop of a run, and keep its last sample."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from foreseer.attach.network.denoisers import find_denoisers
from foreseer.calibration.record import stepping


@dataclass
class LoopTiming:
    """Denoising loop of one run, from the first call of a denoiser to the end of the last scheduler step.

    Attributes:
        began: clock at the first denoiser call, seconds.
        ends: clock after each scheduler step, seconds.
        latent: the scheduler's last sample.
        kept: samples by number of steps taken, for the numbers asked for.
    """

    began: float | None = None
    ends: list[float] = field(default_factory=list)
    latent: torch.Tensor | None = None
    kept: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Scheduler steps taken."""
        return len(self.ends)

    @property
    def seconds(self) -> float:
        """Duration of the loop."""
        return self.ends[-1] - self.began if self.began is not None and self.ends else 0.0

    @property
    def step_seconds(self) -> Float64[np.ndarray, " T"]:
        """Duration of each step; the first begins with the first call of a denoiser."""
        return np.diff([self.began or 0.0, *self.ends])


@contextmanager
def time_loop(pipe: Any, keep: Container[int] = ()) -> Iterator[LoopTiming]:
    """Time the next run of ``pipe``; its scheduler and denoisers are left unchanged.

    Args:
        pipe: a diffusers pipeline.
        keep: numbers of scheduler steps after which the sample is kept.
    """
    loop = LoopTiming()
    scheduler = pipe.scheduler
    step = scheduler.step

    def timed_step(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        latent = loop.latent = result[0] if isinstance(result, tuple) else result.prev_sample
        synchronise()
        loop.ends.append(time.perf_counter())
        if loop.steps in keep:
            loop.kept[loop.steps] = latent.detach()
        return result

    def before(module: nn.Module, args: Any) -> None:
        for hook in hooks:  # only the first call matters, and torch calls hooked modules on a slower path
            hook.remove()
        synchronise()
        loop.began = loop.began or time.perf_counter()

    hooks = [module.register_forward_pre_hook(before) for module in find_denoisers(pipe).values()]
    try:
        with stepping(scheduler, timed_step):
            yield loop
    finally:
        for hook in hooks:
            hook.remove()


def synchronise() -> None:
    """Wait for the GPU if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
