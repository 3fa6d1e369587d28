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
from tests.robustness.served import FORECAST, WHEN
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


HOW: dict[str, Callable[[nn.Module], None]] = {
    "torchao": by_torchao,
    "torch": by_torch,
    "bitsandbytes int8": lambda model: by_bitsandbytes(model, 8),
    "bitsandbytes nf4": lambda model: by_bitsandbytes(model, 4),
}


@pytest.mark.cell("hosts", "weights quantised to int8 by torch's dynamic layers", "works")
@pytest.mark.cell("hosts", "weights quantised by torchao (int8) and bitsandbytes (int8, nf4)", "works")
@SITES
@WHEN
@pytest.mark.parametrize("how", HOW)
def test_quantised_weights(how: str, when: str, site: str) -> None:
    torch.manual_seed(0)
    tiny = build("flux")
    plain = tiny.run()
    original, other = tiny.pipe.transformer, copy.deepcopy(tiny.pipe.transformer)
    HOW[how](other)
    tiny.pipe.transformer = other
    every = tiny.run()
    assert not torch.equal(every, plain)
    with fs.accelerate(tiny.pipe, policy(site, fs.schedule.Uniform(1))):
        assert torch.equal(tiny.run(), every)
    with fs.accelerate(tiny.pipe, policy(site)):
        expected = tiny.run()
    tiny.pipe.transformer = original
    if when == "before":
        HOW[how](original)
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        if when == "after":
            tiny.run()
            HOW[how](original)
        for _ in range(2):
            assert torch.equal(tiny.run(), expected)
            assert handle.record.forecast == {"cond": FORECAST}
            assert handle.record.failed_open == []
    assert torch.equal(tiny.run(), every)
