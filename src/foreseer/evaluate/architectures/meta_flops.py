"""Floating-point operations of a published model at its real size, counted without weights or a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from foreseer.evaluate.architectures.random_models import RANDOM_MODELS
from foreseer.evaluate.architectures.random_weights import RandomWeightsError, pipeline_around
from foreseer.evaluate.sampling.flops import FlopCount


@dataclass(frozen=True)
class FullCost:
    """Cost of one step of a model's denoiser at the published size of picture or video.

    Attributes:
        parameters: number of parameters of the denoiser.
        flops: floating-point operations of a step, all branches together: matrix products, convolutions, attention.
        calls: calls of the denoiser per step.
    """

    parameters: int
    flops: int
    calls: int


def full_cost(name: str, options: Mapping[str, Any] | None = None) -> FullCost:
    """Count the operations of one step of a published model on tensors without content.

    Args:
        name: one of ``foreseer.evaluate.architectures.random_weights.NAMES``.
        options: call options (height, width, num_frames, guidance) that replace the published ones.

    Raises:
        RandomWeightsError: the name is unknown.
    """
    if name not in RANDOM_MODELS:
        raise RandomWeightsError(f"No architecture {name!r}: expected one of {', '.join(RANDOM_MODELS)}.")
    import diffusers
    from accelerate import init_empty_weights

    model = RANDOM_MODELS[name]
    with init_empty_weights():
        network = getattr(diffusers, model.transformer)(**model.config)
    counter = MetaModule(network.to("meta"))
    pipe = pipeline_around(model, counter, model.text_tokens)
    call = {**model.call, **(options or {}), "output_type": "latent"}
    with torch.no_grad():
        pipe("a prompt", num_inference_steps=1, **call)
    return FullCost(sum(parameter.numel() for parameter in network.parameters()), counter.flops, counter.calls)


class MetaModule(nn.Module):
    """CPU stand-in for a module on the meta device: counts the operations of a call and returns zeros.

    Attributes:
        flops: floating-point operations so far.
        calls: calls so far.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "network", network)  # not a submodule, so that the pipeline sees a CPU module
        self.flops = self.calls = 0

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the inputs."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return torch.device("cpu")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Count one call."""
        args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        with torch.device("meta"), FlopCount() as count:
            output = object.__getattribute__(self, "network")(*args, **kwargs)
        self.flops += count.total
        self.calls += 1
        return tree_map_only(torch.Tensor, lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype), output)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "network"), name)
