"""One run of a pipeline: its picture, its final latent, and the time that its denoising loop took."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from foreseer.attach.network.denoisers import find_denoisers
from foreseer.calibration.record import stepping


@dataclass
class Loop:
    """The denoising loop of one run, from the first call of a denoiser to the end of the last scheduler step.

    Attributes:
        began: clock at the first denoiser call, seconds.
        ended: clock after the last scheduler step, seconds.
        steps: scheduler steps taken.
        latent: the last sample that the scheduler gave.
        kept: the samples after the steps that were asked for.
    """

    began: float | None = None
    ended: float = 0.0
    steps: int = 0
    latent: torch.Tensor | None = None
    kept: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Duration of the loop."""
        return self.ended - self.began if self.began is not None else 0.0


@contextmanager
def watch_loop(pipe: Any, keep: Container[int] = ()) -> Iterator[Loop]:
    """Watch the next run of ``pipe``; its scheduler and denoisers are left as they were.

    Args:
        pipe: a diffusers pipeline.
        keep: after how many scheduler steps the sample is kept.
    """
    loop = Loop()
    on_gpu = torch.cuda.is_available()
    scheduler = pipe.scheduler
    step = scheduler.step

    def watched_step(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        loop.steps += 1
        latent = loop.latent = result[0] if isinstance(result, tuple) else result.prev_sample
        if loop.steps in keep:
            loop.kept[loop.steps] = latent.detach()
        if on_gpu:
            torch.cuda.synchronize()
        loop.ended = time.perf_counter()
        return result

    def before(module: nn.Module, args: Any) -> None:
        for hook in hooks:  # they have seen the first call; a hooked module takes torch's slower path
            hook.remove()
        if on_gpu:
            torch.cuda.synchronize()
        loop.began = loop.began or time.perf_counter()

    hooks = [module.register_forward_pre_hook(before) for module in find_denoisers(pipe).values()]
    try:
        with stepping(scheduler, watched_step):
            yield loop
    finally:
        for hook in hooks:
            hook.remove()
