"""Weights that change under an attached policy: LoRA adapters."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from tests.robustness.served import FORECAST, TRANSFORMERS
from tests.support.attaching import policy
from tests.support.pipelines import TinyPipeline, build

pytest.importorskip("peft")

SITES = pytest.mark.parametrize("site", ["output", "last_block", "modules"])
ADAPTED = ("attn.", "ff.", "proj_mlp", "proj_out")
RANK = 4


def adapted(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """A LoRA of rank 4 on attention, MLPs and head, as a pipeline's loader takes it."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and any(part in name for part in ADAPTED):
            down = torch.randn(RANK, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, RANK, generator=generator)
            weights[f"transformer.{name}.lora_A.weight"] = down * layer.in_features**-0.5
            weights[f"transformer.{name}.lora_B.weight"] = 0.3 * up
    return weights


class Adapters:
    """A pipeline and two adapters, one in memory and one in a file that peft wrote."""

    def __init__(self, folder: Path, name: str) -> None:
        torch.manual_seed(0)
        self.tiny: TinyPipeline = build(name)
        self.pipe = self.tiny.pipe
        self.first, self.second = (adapted(self.pipe.transformer, seed) for seed in (1, 2))
        self.folder = folder
        donor = copy.deepcopy(self.pipe.transformer)
        donor.load_lora_adapter(dict(self.second), adapter_name="second")
        donor.save_lora_adapter(str(folder), adapter_name="second")

    def load(self) -> None:
        self.pipe.load_lora_weights(dict(self.first), adapter_name="first")

    def load_file(self) -> None:
        self.pipe.transformer.load_lora_adapter(
            str(self.folder), weight_name="pytorch_lora_weights.safetensors", adapter_name="second", prefix=None
        )

    def scale(self) -> None:
        self.pipe.set_adapters(["first", "second"], [0.7, -0.4])

    def hot_swap(self) -> None:
        self.pipe.load_lora_weights(dict(self.second), adapter_name="first", hotswap=True)

    def fuse(self) -> None:
        self.pipe.fuse_lora(lora_scale=0.6)

    def unfuse(self) -> None:
        self.pipe.unfuse_lora()

    def unload(self) -> None:
        self.pipe.unload_lora_weights()


LIFE = ("load", "load_file", "scale", "fuse", "unfuse", "hot_swap", "unload")


@pytest.mark.cell("hosts", "LoRA loaded, scaled, fused, unfused, hot-swapped or unloaded before attaching", "works")
@pytest.mark.cell("hosts", "LoRA loaded, scaled, fused, unfused, hot-swapped or unloaded while attached", "works")
@SITES
@TRANSFORMERS
def test_lora(site: str, name: str, tmp_path: Path) -> None:
    def images(attached: bool) -> tuple[list[Tensor], list[Tensor]]:
        adapters, found, every = Adapters(tmp_path / str(attached), name), [], []
        handle = fs.accelerate(adapters.pipe, policy(site)) if attached else None
        for change in (None, *LIFE):
            if change is not None:
                getattr(adapters, change)()
            if attached:
                found.append(adapters.tiny.run())
            else:
                every.append(adapters.tiny.run())
                handle = fs.accelerate(adapters.pipe, policy(site))
                found.append(adapters.tiny.run())
            assert handle is not None
            assert handle.record is not None
            assert handle.record.forecast == dict.fromkeys(adapters.tiny.branches, FORECAST), change
            assert handle.record.failed_open == []
            if not attached:
                handle.detach()
        if attached:
            handle.detach()
        return found, every

    fresh, every = images(attached=False)
    kept, _ = images(attached=True)
    for index, change in enumerate(("none", *LIFE)):
        assert torch.equal(kept[index], fresh[index]), change
    for before, after, change in zip(every, every[1:], LIFE, strict=False):  # each change is a change
        assert not torch.equal(before, after), change
    assert torch.allclose(every[-1], every[0], atol=1e-4)
