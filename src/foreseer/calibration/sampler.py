"""The sampler as a matrix: what every network output does to every later sample."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from foreseer.checks import check_count
from foreseer.errors import ForeseerError
from foreseer.grid import has_steps, visited

LINEAR_TOLERANCE = 1e-3  # schedulers work in float32


class SamplerError(ForeseerError, ValueError):
    """A scheduler is not linear and deterministic, or has no steps yet."""


def sampler_matrix(
    scheduler: Any, num_inference_steps: int | None = None, *, first_step: int = 0
) -> Float64[np.ndarray, "T1 T1"]:
    r"""L with $x_i = L_{i0}\, x_{\text{init}} + \sum_j L_{i,j+1} F_j$, for any deterministic diffusers scheduler.

    The scheduler is run once on T + 1 channels, the initial sample being unit vector 0 and the output of step j unit
    vector j + 1: the samples that come back are the rows. Then it is run on noise, to prove that L says the truth.

    Args:
        scheduler: any diffusers scheduler; a copy of it is run.
        num_inference_steps: T; ``None`` to keep the timesteps that were set on the scheduler.
        first_step: where the run begins on the scheduler's grid (image to image leaves out the first steps); T counts
            those that remain.

    Returns:
        Shape (T + 1, T + 1): row i is the sample before step i, row T the final one.

    Raises:
        SamplerError: the scheduler has no timesteps, is stochastic, or not linear (thresholding, clipping).
    """
    check_count("first_step", first_step, SamplerError)

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
            f"{name} is stochastic: its samples are no function of the outputs alone. Rows from a kernel serve it; "
            "rollout and the final error need a deterministic scheduler."
        )
    expected = matrix @ np.stack([start.numpy(), *(output.numpy() for output in outputs)])
    scale = np.abs(expected).max()
    worst = float(np.abs(expected - first.numpy()).max() / scale)
    if not worst <= LINEAR_TOLERANCE:
        raise SamplerError(f"{name} is not linear in the network's outputs (off by {worst:.1e}): does it clip samples?")
    return matrix


def _fresh(scheduler: Any, num_inference_steps: int | None, first_step: int) -> Any:
    fresh = copy.deepcopy(scheduler)
    if num_inference_steps is not None:
        fresh.set_timesteps(num_inference_steps)
    if not has_steps(fresh):
        raise SamplerError(f"{type(scheduler).__name__} has no steps yet: call its set_timesteps(n), or give a number.")
    if first_step and hasattr(fresh, "set_begin_index"):
        fresh.set_begin_index(first_step)
    # The scheduler's tensors may lie on a GPU, and the unit vectors need none.
    for name, value in vars(fresh).items():
        if isinstance(value, torch.Tensor):
            setattr(fresh, name, value.cpu())
    return fresh


def _run(scheduler: Any, start: torch.Tensor, outputs: list[torch.Tensor], first_step: int) -> list[torch.Tensor]:
    """The samples before each step and the last one, over channels laid out as an image's."""
    sample = start[None, :, None, None].clone()
    samples = [sample]
    scale = getattr(scheduler, "scale_model_input", None)
    for t, output in zip(visited(scheduler)[first_step:], outputs, strict=True):
        if scale is not None:
            scale(sample, t)  # some schedulers want to see it called; what it returns is the network's business
        result = scheduler.step(output[None, :, None, None], t, sample, return_dict=False)
        sample = result[0].to(torch.float64)
        samples.append(sample)
    return [one.reshape(-1) for one in samples]
