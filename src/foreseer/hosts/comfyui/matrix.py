"""A ComfyUI sampler as a matrix: what every network output does to every later sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from foreseer.hosts.comfyui.levels import step_at

LINEAR_TOLERANCE = 1e-3  # samplers work in float32


class _NotOnGridError(Exception):
    """The sampler called the network elsewhere than once per level, in order."""


class _Outputs:
    r"""Stands in for the network: $D = x - \sigma F_j$ at call j, with outputs $F_j$ fixed in advance."""

    def __init__(self, guider: Any, levels: list[float], outputs: Tensor) -> None:
        self.inner_model = guider  # samplers ask it for the model's noise schedule
        self.samples: list[Tensor] = []
        self._levels = levels
        self._outputs = outputs

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        step = len(self.samples)
        level = float(sigma.reshape(-1)[0])
        if step == len(self._levels) or step_at(self._levels, level, expected=step) != step:
            raise _NotOnGridError
        self.samples.append(x.reshape(-1).clone())
        return x - level * self._outputs[step].reshape(x.shape)


def sampler_matrix(sampler: Any, guider: Any, sigmas: Tensor) -> Float64[np.ndarray, "T1 T1"] | None:
    r"""$L$ with $x_i = L_{i0}\, x_{\text{init}} + \sum_j L_{i,j+1} F_j$, where $F = (x - D) / \sigma$.

    The sampler is run on unit vectors, and then twice on noise to check that it is deterministic and linear.

    Args:
        sampler: a ComfyUI sampler with a ``sampler_function``.
        guider: what the sampler's model wrapper belongs to.
        sigmas: shape (T + 1,), the noise levels, the last being where the run ends.

    Returns:
        Shape (T + 1, T + 1): row i is the sample before step i, row T the final one. ``None`` if the sampler is
        stochastic, not linear, or does not call the network once per level.
    """
    function = getattr(sampler, "sampler_function", None)
    if function is None:
        return None
    levels = [float(sigma) for sigma in sigmas[:-1].tolist()]
    size = len(levels) + 1

    def run(start: Tensor, outputs: Tensor) -> Tensor:
        model = _Outputs(guider, levels, outputs)
        options = dict(getattr(sampler, "extra_options", None) or {})
        extra_args = {"model_options": {}, "seed": 0}
        x = start.reshape(1, size, 1, 1).clone()
        final = function(model, x, sigmas.cpu().float(), extra_args=extra_args, callback=None, disable=True, **options)
        if len(model.samples) != len(levels):
            raise _NotOnGridError
        return torch.stack([*model.samples, final.reshape(-1)]).double()

    generator = torch.Generator().manual_seed(0)
    units = torch.eye(size)
    start = torch.randn(size, generator=generator)
    outputs = torch.randn(len(levels), size, generator=generator)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            matrix = run(units[0], units[1:])
            first, second = run(start, outputs), run(start, outputs)
        except Exception:  # noqa: BLE001 - a sampler of another pack may raise anything on such a model
            return None
    expected = matrix @ torch.cat([start[None], outputs]).double()
    error = float((expected - first).abs().max() / expected.abs().max())
    return matrix.numpy() if torch.equal(first, second) and error <= LINEAR_TOLERANCE else None
