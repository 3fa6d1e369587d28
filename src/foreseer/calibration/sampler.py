"""The sampler matrix: effect of every network output on every later sample."""

from __future__ import annotations

import copy
import reprlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from foreseer.checks import check_count
from foreseer.errors import ForeseerError, in_one_line
from foreseer.scheduler_levels import has_steps, is_scheduler, visited

LINEAR_TOLERANCE = 1e-3  # schedulers compute in float32


class SamplerError(ForeseerError, ValueError):
    """A scheduler is stochastic or not linear, or has no steps yet."""


def sampler_matrix(
    scheduler: Any, num_inference_steps: int | None = None, *, first_step: int = 0
) -> Float64[np.ndarray, "T1 T1"]:
    r"""Compute L with $x_i = L_{i0}\, x_{\text{init}} + \sum_j L_{i,j+1} F_j$ (deterministic schedulers).

    A copy of the scheduler runs once on T + 1 channels, with unit vector 0 as initial sample and unit vector j + 1 as
    output of step j; the resulting samples are the rows of L. A run on random inputs then verifies L.

    Args:
        scheduler: any diffusers scheduler.
        num_inference_steps: T; ``None`` to keep the timesteps set on the scheduler.
        first_step: first step of the run on the scheduler's grid (image to image); T counts the remaining steps.

    Returns:
        Shape (T + 1, T + 1): row i is the sample before step i, row T the final sample.

    Raises:
        SamplerError: the scheduler has no timesteps, is stochastic, or not linear (thresholding, clipping).
    """
    check_count("first_step", first_step, SamplerError)
    measured = getattr(scheduler, "matrix", None)  # that of an fs.Sampler
    if isinstance(measured, SamplerError):
        raise measured
    if isinstance(measured, np.ndarray):
        return measured

    def run(start: torch.Tensor, outputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(_run(_fresh(scheduler, num_inference_steps, first_step), start, outputs, first_step))

    steps = len(visited(_fresh(scheduler, num_inference_steps, first_step))) - first_step
    if steps < 1:
        raise SamplerError(f"The run has no step from {first_step} on.")
    units = torch.eye(steps + 1, dtype=torch.float64)
    matrix = run(units[0], list(units[1:])).numpy()
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(steps + 1, generator=generator, dtype=torch.float64)
    outputs = [torch.randn(steps + 1, generator=generator, dtype=torch.float64) for _ in range(steps)]
    name = type(scheduler).__name__
    first, second = (run(start, outputs) for _ in range(2))
    if not torch.equal(first, second):
        raise SamplerError(
            f"{name} is stochastic: its samples are not a function of the outputs. Use kernel rows, or a deterministic "
            "scheduler for rollout and expected final errors."
        )
    expected = matrix @ np.stack([start.numpy(), *(output.numpy() for output in outputs)])
    scale = np.abs(expected).max()
    worst = float(np.abs(expected - first.numpy()).max() / scale)
    if not worst <= LINEAR_TOLERANCE:
        raise SamplerError(f"{name} is not linear in the network's outputs (off by {worst:.1e}): does it clip samples?")
    return matrix


def _fresh(scheduler: Any, num_inference_steps: int | None, first_step: int) -> Any:
    fresh = copy.deepcopy(scheduler)
    if not is_scheduler(scheduler):
        raise SamplerError(f"Expected a scheduler of diffusers, received {reprlib.repr(scheduler)}.")
    if num_inference_steps is not None:
        fresh.set_timesteps(num_inference_steps)
    if not has_steps(fresh):
        raise SamplerError(f"{type(scheduler).__name__} has no steps yet: call its set_timesteps(n), or give a number.")
    if first_step and hasattr(fresh, "set_begin_index"):
        fresh.set_begin_index(first_step)
    # The scheduler's tensors may be on a GPU; the unit vectors are on the CPU.
    for name, value in vars(fresh).items():
        if isinstance(value, torch.Tensor):
            setattr(fresh, name, value.cpu())
    return fresh


def _run(scheduler: Any, start: torch.Tensor, outputs: list[torch.Tensor], first_step: int) -> list[torch.Tensor]:
    """Return the samples before each step and the final sample, with channels in an image layout."""
    sample = start[None, :, None, None].clone()
    samples = [sample]
    scale = getattr(scheduler, "scale_model_input", None)
    for t, output in zip(visited(scheduler)[first_step:], outputs, strict=True):
        if scale is not None:
            scale(sample, t)  # some schedulers require the call; its result is an input of the network only
        sample = _step(scheduler, output[None, :, None, None], t, sample).to(torch.float64)
        samples.append(sample)
    return [sample.reshape(-1) for sample in samples]


def _step(scheduler: Any, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """One step; the timestep has one dimension if the scheduler cannot use a scalar.

    Raises:
        SamplerError: the scheduler cannot step on these tensors (it wants a learned variance, say).
    """
    try:
        return scheduler.step(output, timestep, sample, return_dict=False)[0]
    except IndexError:
        pass
    except Exception as error:
        raise SamplerError(f"{type(scheduler).__name__} cannot step on unit vectors: {in_one_line(error)}.") from error
    try:
        return scheduler.step(output, timestep.reshape(1), sample, return_dict=False)[0]
    except Exception as error:
        raise SamplerError(f"{type(scheduler).__name__} cannot step on unit vectors: {in_one_line(error)}.") from error
