"""Cost of a run besides time: floating-point operations of the denoiser, and peak memory."""

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
from foreseer.evaluate.sampling.environment import runs_on_gpu
from foreseer.evaluate.sampling.flops import FlopCount


@dataclass
class DenoiserCost:
    """Operations and calls of a pipeline's denoisers while they were counted.

    Attributes:
        flops: floating-point operations of matrix products, convolutions and attention.
        calls: calls of a denoiser, including those that were forecast.
    """

    flops: int = 0
    calls: int = 0


@contextmanager
def count_denoiser(pipe: Any) -> Iterator[DenoiserCost]:
    """Count the operations of the denoisers of ``pipe``; text encoders and decoder are left out.

    Counting slows a run down: do not time a counted run.
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
        for module in find_denoisers(pipe).values():
            interception = Interception(module, call)
            interceptions.callback(interception.remove)
            interception.install()
        yield cost


def modules(pipe: Any) -> list[nn.Module]:
    """List every network of a pipeline: denoisers, text encoders, decoder."""
    components = getattr(pipe, "components", {}).values()
    return [component for component in components if isinstance(component, nn.Module)]


@dataclass
class PeakMemory:
    """Largest number of bytes in use at once; ``None`` if it cannot be measured."""

    bytes: int | None = None


@contextmanager
def watch_memory(pipe: Any) -> Iterator[PeakMemory]:
    """Measure peak memory, the pipeline's weights included; the value is set when the block ends.

    On CUDA it is the allocator's peak, summed over devices. On a CPU it is the peak of tensors that torch's profiler
    saw allocated in the block, plus the weights. Profiling slows a run down: do not time a watched run.
    """
    peak = PeakMemory()
    gc.collect()
    if runs_on_gpu(pipe):
        devices = range(torch.cuda.device_count())
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = sum(torch.cuda.max_memory_allocated(device) for device in devices)
        return
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it prints a line at each start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield peak
    try:
        events: Any = profiler.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
        changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    except AttributeError:
        return
    live = most = 0
    for _, change in changes:
        live += change
        most = max(most, live)
    peak.bytes = most + weight_bytes(pipe)


def weight_bytes(pipe: Any) -> int:
    """Return the bytes of all parameters and buffers of a pipeline."""
    tensors = {id(tensor): tensor for module in modules(pipe) for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())
