"""Networks as they are served: the same network in bfloat16, in 8 bits, or with noise on its outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

NOISE = (0.005, 0.01, 0.02)  # relative to each output's norm
NOISE_SEED = 555_000


def int8(values: Tensor) -> Tensor:
    """Round to 8-bit integers, one scale per row, as torchao's dynamic quantisation does."""
    scale = values.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).eps) / 127.5
    return (values / scale).round().clamp(-128, 127) * scale


def float8(values: Tensor) -> Tensor:
    """Round to float8 (e4m3), one scale per row."""
    largest = torch.finfo(torch.float8_e4m3fn).max
    scale = values.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).eps) / largest
    return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale


def rounded(network: nn.Module, rounding: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a copy in which each linear layer multiplies rounded activations by rounded weights.

    The products are summed in float32, as kernels in 8 bits do, so that the outputs are theirs on any CPU.
    """
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = rounding(layer.weight.data)
            layer.register_forward_pre_hook(lambda layer, inputs: (rounding(inputs[0]), *inputs[1:]))
    return network


def in_bfloat16(network: Any) -> nn.Module:
    """Return a copy that computes in bfloat16 between float32 samples."""
    network = copy.deepcopy(network).to(torch.bfloat16)

    def cast(value: Any) -> Any:
        return value.to(torch.bfloat16) if isinstance(value, Tensor) and value.is_floating_point() else value

    def cast_arguments(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}

    network.register_forward_pre_hook(cast_arguments, with_kwargs=True)
    network.proj_out.register_forward_hook(lambda module, inputs, output: output.float())
    return network


def noisy(network: Any, level: float) -> nn.Module:
    """Return a copy whose outputs get Gaussian noise, different at each forward pass, from one seed on."""
    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(NOISE_SEED)

    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        size = output.pow(2).mean(dim=tuple(range(1, output.ndim)), keepdim=True).sqrt()
        return output + level * size * torch.randn(output.shape, generator=generator)

    network.proj_out.register_forward_hook(add)
    return network


def networks(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and network of every way to serve ``network``, itself in float32 first."""
    yield "float32", network
    yield "bfloat16", in_bfloat16(network)
    yield "int8", rounded(network, int8)
    yield "float8", rounded(network, float8)
    for level in NOISE:
        yield f"noise {level:.1%}", noisy(network, level)


class RecordedInputs:
    """Inputs and outputs of a network over one run.

    Args:
        network: the network.
        run: makes the run.
    """

    def __init__(self, network: nn.Module, run: Callable[[], Any]) -> None:
        self._inputs: list[tuple[Any, Any]] = []
        handle = network.register_forward_pre_hook(
            lambda module, args, kwargs: self._inputs.append((args, kwargs)), with_kwargs=True
        )
        try:
            run()
        finally:
            handle.remove()
        self._outputs = self._of(network)

    @property
    def first(self) -> dict[str, Any]:
        """Keyword arguments of the first call."""
        return self._inputs[0][1]

    @torch.no_grad()
    def _of(self, network: nn.Module) -> Tensor:
        return torch.stack([network(*args, **kwargs)[0].float() for args, kwargs in self._inputs])

    def noise_of(self, network: nn.Module) -> tuple[float, float]:
        """Error of another network's outputs at the same inputs, and its part that is fresh at each step.

        Both relative to the outputs. Fresh is what the errors of the two neighbouring steps do not predict.
        """
        errors = self._of(network) - self._outputs
        size = self._outputs.norm() / len(errors) ** 0.5
        fresh = (errors[1:-1] - (errors[:-2] + errors[2:]) / 2).norm() / (1.5 * (len(errors) - 2)) ** 0.5
        return float(errors.norm() / len(errors) ** 0.5 / size), float(fresh / size)
