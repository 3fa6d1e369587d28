"""What a run costs beside time: floating-point operations of the denoiser, and the peak of memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from foreseer.attach.interception import Interception
from foreseer.attach.network.denoisers import find_denoisers
from foreseer.evaluate.environment import runs_on_gpu
from foreseer.evaluate.flops import FlopCount


@dataclass
class DenoiserCost:
    """What the denoisers of a pipeline computed while they were counted.

    Attributes:
        flops: floating-point operations of matrix products, convolutions and attention.
        calls: calls of a denoiser, forecast ones included.
    """

    flops: int = 0
    calls: int = 0


@contextmanager
def count_denoiser(pipe: Any) -> Iterator[DenoiserCost]:
    """Count what the denoisers of ``pipe`` compute inside; text encoders and decoder are left out.

    Counting slows a run down: never time a counted one.
    """
    cost = DenoiserCost()

    def call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        cost.calls += 1
        counter = FlopCount()
        try:
            with counter:
                return forward(*args, **kwargs)
        finally:
            cost.flops += counter.total

    with ExitStack() as interceptions:
        for module in denoisers(pipe):
            interception = Interception(module, call)
            interceptions.callback(interception.remove)
            interception.install()
        yield cost


def denoisers(pipe: Any) -> list[nn.Module]:
    """The denoising modules of a pipeline, attached to or not."""
    return list(find_denoisers(pipe).values())


def modules(pipe: Any) -> list[nn.Module]:
    """Every network of a pipeline: denoisers, text encoders, decoder."""
    return [one for one in getattr(pipe, "components", {}).values() if isinstance(one, nn.Module)]


@dataclass
class Peak:
    """The most bytes in use at once; ``None`` where that could not be told."""

    bytes: int | None = None


@contextmanager
def watch_memory(pipe: Any) -> Iterator[Peak]:
    """Watch the most bytes in use at once, the pipeline's weights included; told when the block is left.

    On CUDA the allocator's own peak, of all devices together. On a CPU the peak of live tensors by torch's profiler
    over those live before, plus the weights. Watching slows a run down: never time a watched one.
    """
    peak = Peak()
    gc.collect()
    if runs_on_gpu(pipe):
        devices = range(torch.cuda.device_count())
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = sum(torch.cuda.max_memory_allocated(device) for device in devices)
        return
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints a line at each start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield peak
    try:
        events: Any = profiler.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
        changes = sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]")
    except AttributeError:
        return
    live = most = 0
    for _, change in changes:
        live += change
        most = max(most, live)
    peak.bytes = most + weight_bytes(pipe)


def weight_bytes(pipe: Any) -> int:
    """Bytes of all parameters and buffers of a pipeline."""
    tensors = {id(one): one for module in modules(pipe) for one in (*module.parameters(), *module.buffers())}
    return sum(one.nbytes for one in tensors.values())
