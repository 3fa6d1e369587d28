r"""Empirical statistics of a model along its reference trajectories, as DPM-Solver-v3 uses them.

With dz/dtau = h the sampling ODE in the path's own coordinates, per noise level and element of the sample:

$$d = \mathbb{E}\, \mathrm{diag}(\partial h / \partial z), \qquad N = h - d z, \qquad
s = \frac{\mathrm{Cov}(N, N')}{\mathrm{Var}(N)}, \qquad b = \mathbb{E} N' - s\, \mathbb{E} N$$

d takes the linear part out of the network; s and b predict how the rest N changes along a trajectory. The paper states
them for noise prediction over the half log-SNR: its $l$ is $\sigma (1 + \alpha d)$ for flow matching, and its f is N
times a function of the level, which s and b absorb. So its first-order solver is the same, and nothing is infinite
where flow matching begins and ends.

Source: Zheng et al., "DPM-Solver-v3", arXiv 2310.13268 (code under the MIT licence, not copied), the optimal l, s and
b. Expectations are over the calibration prompts' trajectories, derivatives by finite differences of the outputs (along
a random direction for d), so no gradients are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.evaluate.peers.calibration_runs import CalibrationRuns
from foreseer.evaluate.peers.noise_path import NoisePath
from foreseer.evaluate.peers.own_scheduler import OwnScheduler, replaced_scheduler
from foreseer.evaluate.peers.tableau_scheduler import base_scheduler

SHIFT = 1e-2  # of a perturbed sample, relative to its root mean square
LEAST_VARIANCE = 1e-9  # relative to the largest: below, N does not vary and s is 0


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """Statistics at the T levels of the reference.

    Attributes:
        path: of the reference.
        linear: d, shape (T, *E), E the shape of a sample without its batch axis.
        growth: s, shape (T, *E).
        bias: b, shape (T, *E).
        pooled: whether elements of a channel share their statistics.
    """

    path: NoisePath
    linear: np.ndarray
    growth: np.ndarray
    bias: np.ndarray
    pooled: bool = False


def measure_statistics(runs: CalibrationRuns) -> list[ModelStatistics]:
    """Statistics per element, as published, and per channel, which few prompts estimate better."""
    path, shape = runs.path(runs.steps), tuple(runs.targets.shape[1:])
    derivatives = _derivatives(runs, path).reshape(-1, path.steps, *shape)  # prompts first
    trajectories = [_in_path(path, samples, outputs) for samples, outputs in runs.trajectories]
    samples, slopes = (
        np.stack([pair[which] for pair in trajectories]).reshape(-1, path.steps, *shape) for which in (0, 1)
    )
    return [
        replace(statistics_of(path, samples, slopes, derivatives, axes), pooled=bool(axes))
        for axes in ((), _token_axes(len(shape)))
    ]


def statistics_of(
    path: NoisePath, samples: np.ndarray, slopes: np.ndarray, derivatives: np.ndarray, axes: tuple[int, ...] = ()
) -> ModelStatistics:
    """Statistics from trajectories.

    Args:
        path: T levels.
        samples: z, shape (P, T, *E).
        slopes: h, shape (P, T, *E).
        derivatives: estimates of the diagonal of dh/dz, shape (P, T, *E).
        axes: of E, counted from the end, over which elements are pooled.
    """

    def mean(values: np.ndarray) -> np.ndarray:
        return values.mean(axis=(0, *axes), keepdims=True)[0]

    linear = mean(derivatives)
    rest = slopes - linear * samples
    change = np.gradient(rest, path.tau[:-1], axis=1) if path.steps > 1 else np.zeros_like(rest)
    variance = mean(rest**2) - mean(rest) ** 2
    covariance = mean(rest * change) - mean(rest) * mean(change)
    varies = variance > LEAST_VARIANCE * variance.max()
    growth = np.where(varies, covariance / np.where(varies, variance, 1.0), 0.0)
    bias = mean(change) - growth * mean(rest)
    shape = samples.shape[1:]
    linear, growth, bias = (np.broadcast_to(values, shape) for values in (linear, growth, bias))
    return ModelStatistics(path, linear, growth, bias)


class PerturbedReplay(OwnScheduler):
    """Visit samples of known trajectories, moved along random directions, and keep the outputs.

    The first sample is the pipeline's own and cannot be moved: its level is visited twice.

    Args:
        own: the pipeline's scheduler.
        samples: shape (T, P, D), those of the trajectories.
        shifts: shape (T, P, D).
    """

    def __init__(self, own: Any, samples: Tensor, shifts: Tensor) -> None:
        super().__init__(own)
        self._visits = samples + shifts
        self.outputs: list[Tensor] = []

    def _after_set(self) -> None:
        self.outputs = []

    @property
    def timesteps(self) -> Tensor:
        """The levels, the first twice."""
        times = self._own.timesteps
        return torch.cat([times[:1], times])

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample itself."""
        return sample

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The run begins at its first step."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Keep the output; the next visit."""
        visit = min(len(self.outputs), len(self._visits) - 1)
        self.outputs.append(model_output)
        moved = self._visits[visit].to(sample).reshape(sample.shape)
        return SimpleNamespace(prev_sample=moved) if return_dict else (moved,)


def _derivatives(runs: CalibrationRuns, path: NoisePath) -> np.ndarray:
    """Estimate the diagonal of dh/dz by Hutchinson's method, one direction per prompt and level."""
    made, generator = [], torch.Generator().manual_seed(runs.prompts.seed)
    fitted = runs.prompts.fitted
    for indices in runs.batches(fitted):
        first = fitted.index(indices[0])
        batch = runs.trajectories[first : first + len(indices)]
        samples = torch.stack([samples[:-1] for samples, _ in batch], 1)
        outputs = torch.stack([outputs for _, outputs in batch], 1)
        signs = torch.randint(0, 2, samples.shape, generator=generator) * 2.0 - 1.0
        size = SHIFT * samples.square().mean((1, 2), keepdim=True).sqrt()
        replay = PerturbedReplay(base_scheduler(runs.pipe.scheduler), samples, size * signs)
        with replaced_scheduler(runs.pipe, replay), torch.no_grad():
            runs.pipe(**runs.arguments(indices, runs.steps))
        moved = torch.stack(replay.outputs[1:]).float().cpu().reshape(outputs.shape)
        estimates = (signs * (moved - outputs) / size).double().numpy()
        shape = (-1, 1, 1)
        of_sample, of_output = path.slope_of_sample.reshape(shape), path.slope_of_output.reshape(shape)
        made.append((path.scale[:-1].reshape(shape) * (of_sample + of_output * estimates)).swapaxes(0, 1))
    return np.concatenate(made)


def _in_path(path: NoisePath, samples: Tensor, outputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """State z and slope h along a trajectory, shape (T, D)."""
    before, after = samples[:-1].double().numpy(), outputs.double().numpy()
    slopes = path.slope_of_sample[:, None] * before + path.slope_of_output[:, None] * after
    return before / path.scale[:-1, None], slopes


def _token_axes(dimensions: int) -> tuple[int, ...]:
    """Axes of a sample that are not its channels: channels are last in (tokens, C), first in (C, H, W)."""
    return (-2,) if dimensions == 2 else tuple(range(1 - dimensions, 0))
