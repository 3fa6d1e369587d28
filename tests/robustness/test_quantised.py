"""Weights quantised before or after attaching, by every library that does so on a CPU."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import foreseer as fs
from tests.robustness.served import FORECAST, PIPELINES, WHEN
from tests.support.attaching import policy
from tests.support.pipelines import build

SITES = pytest.mark.parametrize("site", ["output", "last_block", "modules"])


def by_torchao(model: nn.Module) -> None:
    """int8 weights in tensors of another class; the layers stay."""
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())


def by_torch(model: nn.Module) -> None:
    """int8 layers in place of float32's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)


def by_bitsandbytes(model: nn.Module, bits: int) -> None:
    """Replace float32 layers by int8 or nf4 layers, as diffusers does, without the GPU that it needs."""
    layers = pytest.importorskip("bitsandbytes").nn
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                setattr(parent, name, _by_bitsandbytes(layers, layer, bits))


def _by_bitsandbytes(layers: Any, layer: nn.Linear, bits: int) -> nn.Module:
    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    quantised = (
        layers.Linear8bitLt(*shape, has_fp16_weights=False)
        if bits == 8
        else layers.LinearNF4(*shape, compute_dtype=torch.float32)
    )
    quantised.load_state_dict(layer.state_dict())
    return quantised.requires_grad_(False).to("cpu")


def by_gguf(model: nn.Module) -> None:
    """Linear layers whose weights stay in GGUF's blocks of 8 bits, where they divide into such blocks."""
    gguf = pytest.importorskip("gguf")
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    kind = gguf.GGMLQuantizationType.Q8_0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer.in_features % 32 == 0:
                biased = layer.bias is not None
                stored = GGUFLinear(layer.in_features, layer.out_features, biased, compute_dtype=torch.float32)
                blocks = torch.from_numpy(gguf.quants.quantize(layer.weight.detach().numpy(), kind))
                stored.weight, stored.bias = GGUFParameter(blocks, quant_type=kind), layer.bias
                setattr(parent, name, stored.requires_grad_(False))


def by_layerwise_casting(model: Any) -> None:
    """Weights in 8 bits, cast before each layer runs, as diffusers does."""
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


LIBRARIES: dict[str, Callable[[nn.Module], None]] = {
    "torchao": by_torchao,
    "bitsandbytes int8": lambda model: by_bitsandbytes(model, 8),
    "bitsandbytes nf4": lambda model: by_bitsandbytes(model, 4),
}


@pytest.mark.cell("hosts", "weights quantised by torchao (int8) and bitsandbytes (int8, nf4)", "works")
@PIPELINES
@SITES
@WHEN
@pytest.mark.parametrize("how", LIBRARIES)
def test_quantised_weights(how: str, when: str, site: str, name: str) -> None:
    check_quantised(LIBRARIES[how], when, site, name)


@pytest.mark.cell("hosts", "weights quantised to int8 by torch's dynamic layers", "works")
@PIPELINES
@SITES
@WHEN
def test_dynamically_quantised_weights(when: str, site: str, name: str) -> None:
    check_quantised(by_torch, when, site, name)


@pytest.mark.cell("hosts", "weights in GGUF's blocks (Q8_0)", "works")
@PIPELINES
@SITES
@WHEN
def test_gguf(when: str, site: str, name: str) -> None:
    check_quantised(by_gguf, when, site, name)


@pytest.mark.cell("hosts", "weights in float8 (`enable_layerwise_casting`)", "works")
@PIPELINES
@SITES
@WHEN
def test_layerwise_casting(when: str, site: str, name: str) -> None:
    check_quantised(by_layerwise_casting, when, site, name)


def check_quantised(change: Callable[[nn.Module], None], when: str, site: str, name: str) -> None:
    """The runs are those of the changed network; every step computed, its bits are."""
    torch.manual_seed(0)
    tiny = build(name)
    denoiser = tiny.denoisers[0]
    plain = tiny.run()
    original, other = tiny.modules[0], copy.deepcopy(tiny.modules[0])
    change(other)
    setattr(tiny.pipe, denoiser, other)
    every = tiny.run()
    assert not torch.equal(every, plain)
    with fs.accelerate(tiny.pipe, policy(site, fs.schedule.Uniform(1))):
        assert torch.equal(tiny.run(), every)
    with fs.accelerate(tiny.pipe, policy(site)):
        expected = tiny.run()
    setattr(tiny.pipe, denoiser, original)
    if when == "before":
        change(original)
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        if when == "after":
            tiny.run()
            change(original)
        for _ in range(2):
            assert torch.equal(tiny.run(), expected)
            assert handle.record.forecast == dict.fromkeys(tiny.branches, FORECAST)
            assert handle.record.failed_open == []
    assert torch.equal(tiny.run(), every)
