"""The attention and MLP modules inside the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.interception import HOOK_NAME
from foreseer.attach.sites.modules import ModuleSite
from foreseer.runtime import FeatureStore
from tests.support.attaching import STEPS, TinyDenoiser, flow_scheduler, policy, reference, sample, tiny
from tests.support.pipelines import randomise

TRANSFORMER = "transformer_blocks.0.attn transformer_blocks.0.ff transformer_blocks.0.ff_context"
TAKEN = {
    # The single blocks' attention and MLP only feed the projection.
    "flux": f"{TRANSFORMER} single_transformer_blocks.0.proj_out single_transformer_blocks.1.proj_out",
    # The last block's text stream ends in its attention, whose modulated norm is needed by nothing else.
    "sd3": f"{TRANSFORMER} transformer_blocks.1.attn transformer_blocks.1.ff",
    "sdxl": " ".join(
        f"{transformer}.transformer_blocks.0.{one}"
        for transformer in (
            "down_blocks.1.attentions.0",
            "mid_block.attentions.0",
            "up_blocks.0.attentions.0",
            "up_blocks.0.attentions.1",
        )
        for one in ("attn1", "attn2", "ff")
    ),
}


def site_of(module: nn.Module) -> ModuleSite:
    return module._diffusers_hook.get_hook(HOOK_NAME).site


@pytest.mark.parametrize("name", TAKEN)
def test_the_modules_are_those_that_a_block_adds_up(name: str) -> None:
    with fs.accelerate(tiny(name).pipe, policy("modules")) as handle:
        tiny(name).run(2)
        skipped = site_of(tiny(name).modules[0]).skipped
    assert list(handle.record.modules) == TAKEN[name].split()
    assert set(skipped.features.values()) == set(handle.record.modules)
    assert len(skipped.idle) == {"flux": 4, "sd3": 1}.get(name, 0)


class Block(nn.Module):
    """Attention-like mixing and an MLP, each added to the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.mlp = nn.Linear(16, 16), nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + torch.tanh(self.mix(self.norm(hidden).roll(1, dims=1)))
        return hidden + torch.tanh(self.mlp(self.norm(hidden)))


class Blocks(TinyDenoiser):
    """A transformer in small."""

    def __init__(self, kind: type[nn.Module] = Block) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(kind() for _ in range(2))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        hidden = self.embed(x) + self.embed_time(timestep.float().reshape(-1, 1, 1) / 1000)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


def made(model: nn.Module) -> tuple[nn.Module, object]:
    return randomise(model, 2), flow_scheduler()


@pytest.mark.parametrize("of_mlp", [1.0, 0.5])
def test_norms_and_additions_run_on_the_current_step(of_mlp: float) -> None:
    """A forecast step by hand: modules' last outputs weighted by separate rows, the rest unchanged."""
    model, scheduler = made(Blocks())
    kept: dict[tuple[int, str], Tensor] = {}
    inputs: list[tuple[Tensor, Tensor]] = []
    outputs: list[Tensor] = []

    def keep(name: str):
        return lambda module, args, output: kept.update({(len(outputs), name): output.clone()})

    with torch.no_grad():
        with fs.accelerate(model, plan_for(scheduler, of_mlp), scheduler=scheduler, strict=True) as handle:
            sample(model, scheduler)
            for name, module in model.named_modules():
                if name.endswith(("mix", "mlp")):
                    module.register_forward_hook(keep(name))
            model.register_forward_pre_hook(lambda _, args: inputs.append(args))
            model.register_forward_hook(lambda _, args, output: outputs.append(output.clone()))
            sample(model, scheduler)
        assert handle.record.forecast == {"call 1": [4]}
        assert sorted({step for step, _ in kept}) == [0, 1, 2, 3, 5, 6, 7]
        x, timestep = inputs[4]
        hidden = model.embed(x) + model.embed_time(timestep.float().reshape(-1, 1, 1) / 1000)
        for block in range(2):
            for name, weight in (("mix", 1.0), ("mlp", of_mlp)):
                hidden = hidden + torch.tanh(weight * kept[3, f"blocks.{block}.{name}"])
        assert torch.equal(outputs[4], model.head(hidden))
    assert handle.record.forecast_flops == 2 * sum(part.elements for part in handle.record.features["call 1"])


def plan_for(scheduler: object, of_mlp: float) -> fs.Plan:
    """Step 4 forecast from step 3."""
    scheduler.set_timesteps(STEPS)
    rows, own = np.eye(STEPS), np.eye(STEPS)
    rows[4], own[4] = np.eye(STEPS)[3], of_mlp * np.eye(STEPS)[3]
    steps = tuple(step for step in range(STEPS) if step != 4)
    of_modules = {f"blocks.{block}.mlp": own for block in range(2)}
    return fs.Plan(fs.Grid.from_scheduler(scheduler), steps, rows, "modules", branch_rows=of_modules)


def test_a_record_tells_what_a_plan_needs_to_tell_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    put = FeatureStore.put

    def watched(store: FeatureStore, *given: object) -> None:
        put(store, *given)
        held.append(store.bytes)

    monkeypatch.setattr(FeatureStore, "put", watched)
    with fs.accelerate(tiny("sd3").pipe, policy("modules")) as handle:
        tiny("sd3").run()
    (parts,) = handle.record.features.values()
    explained = handle.record.plans["call 1"].plan.explain([part.shape for part in parts])
    assert explained.live_bytes == max(held)
    assert explained.feature_bytes == sum(part.bytes for part in parts)
    told = handle.record.to_dict()["features"]["call 1"]
    assert told == {"tensors": 7, "elements": explained.feature_bytes // 4, "bytes": explained.feature_bytes}


class Shared(Block):
    """One MLP, used twice."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden + torch.tanh(self.mlp(hidden)))


def test_a_module_called_twice_is_two_features() -> None:
    model, scheduler = made(Blocks(Shared))
    with torch.no_grad(), fs.accelerate(model, policy("modules"), scheduler=scheduler, strict=True) as handle:
        sample(model, scheduler)
    names = [f"blocks.{block}.{name}" for block in range(2) for name in ("mlp", "mix", "mlp 2")]
    assert list(handle.record.modules) == names


class InPlace(Block):
    """Writes to what its MLP gave."""

    def forward(self, hidden: Tensor) -> Tensor:
        return self.mlp(hidden).add_(hidden)


class Flat(TinyDenoiser):
    """No block sees tokens."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        hidden = self.embed(x).flatten(0, 1)
        for block in self.blocks:
            hidden = torch.tanh(block(hidden))
        return self.head(hidden).reshape(x.shape)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Flat, "Flat has no blocks of attention and MLP modules on tokens"),
        (lambda: Blocks(InPlace), "do not reproduce its output"),
    ],
)
def test_a_network_that_cannot_be_bypassed_there_is_computed_and_says_so(model: object, reason: str) -> None:
    found, scheduler = made(model())
    with torch.no_grad():
        expected = sample(found, scheduler)
        with (
            fs.accelerate(found, policy("modules"), scheduler=scheduler) as handle,
            pytest.warns(fs.ForeseerWarning, match=f"{reason}.*use site='last_block' or site='output'"),
        ):
            assert torch.equal(sample(found, scheduler), expected)
    assert handle.record.nfe == STEPS


def test_compiled_blocks_are_left_whole() -> None:
    transformer = tiny("sd3").pipe.transformer
    for block in transformer.transformer_blocks:
        block.compile(backend="eager")
    try:
        with (
            fs.accelerate(tiny("sd3").pipe, policy("modules")) as handle,
            pytest.warns(fs.ForeseerWarning, match="blocks of SD3Transformer2DModel are compiled"),
        ):
            tiny("sd3").run()
        assert handle.record.nfe == STEPS
    finally:
        for block in transformer.transformer_blocks:
            block._compiled_call_impl = None
    assert torch.equal(tiny("sd3").run(), reference("sd3"))


@pytest.mark.parametrize("passes", range(1, 5))
def test_an_interrupted_proof_stands_before_no_module(passes: int) -> None:
    model, scheduler = made(Blocks())
    calls, ordinary = [0], model.forward

    def fails(x: Tensor, timestep: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == passes:
            raise KeyboardInterrupt
        return ordinary(x, timestep)

    model.forward = fails
    with torch.no_grad(), fs.accelerate(model, policy("modules"), scheduler=scheduler) as handle:
        with pytest.raises(KeyboardInterrupt):
            sample(model, scheduler)
        assert site_of(model).skipped is None
        assert not any(one._forward_hooks or vars(one).get("_compiled_call_impl") for one in model.blocks.modules())
        sample(model, scheduler)
    assert handle.record.nfe == 4
