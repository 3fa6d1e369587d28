"""Floating-point operations of a published model at its real size, counted without its weights and without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from foreseer.evaluate.flops import FlopCount
from foreseer.evaluate.random_models import RANDOM_MODELS
from foreseer.evaluate.random_weights import RandomWeightsError, pipeline_around


@dataclass(frozen=True)
class FullCost:
    """What one step of a model's denoiser costs at the published size of picture or video.

    Attributes:
        parameters: how many numbers the denoiser has.
        flops: floating-point operations of a step: matrix products, convolutions and attention; all branches together.
        calls: of the denoiser in a step.
    """

    parameters: int
    flops: int
    calls: int


def full_cost(name: str, options: Mapping[str, Any] | None = None) -> FullCost:
    """Run one step of the model called ``name`` with tensors that have shapes and no content, and count.

    Args:
        name: one of ``foreseer.evaluate.random_weights.NAMES``.
        options: of the call (height, width, num_frames, guidance), over the published ones.

    Raises:
        RandomWeightsError: the name is unknown.
    """
    if name not in RANDOM_MODELS:
        raise RandomWeightsError(f"No architecture {name!r}: expected one of {', '.join(RANDOM_MODELS)}.")
    import diffusers
    from accelerate import init_empty_weights

    model = RANDOM_MODELS[name]
    with init_empty_weights():
        real = getattr(diffusers, model.transformer)(**model.config)
    shadow = Shadow(real.to("meta"))
    pipe = pipeline_around(model, shadow, model.text_tokens)
    given = {**model.call, **(options or {}), "output_type": "latent"}
    with torch.no_grad():
        pipe("a prompt", num_inference_steps=1, **given)
    return FullCost(sum(one.numel() for one in real.parameters()), shadow.flops, shadow.calls)


class Shadow(nn.Module):
    """Stands on the CPU for a module on the meta device: counts what a call would compute, and gives zeros.

    Attributes:
        flops: floating-point operations so far.
        calls: so far.
    """

    def __init__(self, real: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "real", real)  # not a submodule: the pipeline must find this one on the CPU
        self.flops = self.calls = 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the inputs that it wants."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Of the inputs that it wants."""
        return torch.device("cpu")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Count a call."""
        args, kwargs = tree_map_only(torch.Tensor, lambda one: one.to("meta"), (args, kwargs))
        with torch.device("meta"), FlopCount() as count:
            output = object.__getattribute__(self, "real")(*args, **kwargs)
        self.flops += count.total
        self.calls += 1
        return tree_map_only(torch.Tensor, lambda one: torch.zeros(one.shape, dtype=one.dtype), output)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "real"), name)
