"""What changes between two steps of one run: features of before are not used after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.interception import HOOK_NAME
from foreseer.attach.run.network_state import NetworkState
from foreseer.attach.run.tracker import MOST_CALLS
from foreseer.errors import AttachError, ForeseerWarning
from tests.support.attaching import policy
from tests.support.pipelines import TinyPipeline, build, embeds

RARE = fs.Policy(fs.schedule.Uniform(interval=4, warmup=1), fs.forecast.Reuse())  # computes 0 and 4 of 8
Change = Callable[[Any, int, dict[str, Any]], dict[str, Any]]


def run(tiny: TinyPipeline, change: Change) -> Tensor:
    def at_end(pipe: Any, index: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        return change(pipe, index, given)

    return tiny.run(8, callback_on_step_end=at_end, callback_on_step_end_tensor_inputs=["prompt_embeds"])


@pytest.mark.cell("runs", "adapters switched by a callback: old features are not used", "works")
@pytest.mark.parametrize("site", ["output", "last_block"])
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_adapters_switched(name: str, site: str) -> None:
    peft = pytest.importorskip("peft")
    tiny = build(name)
    network = tiny.pipe.transformer
    config = peft.LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
    for adapter in ("one", "other"):
        network.add_adapter(config, adapter_name=adapter)
    network.requires_grad_(False)

    def switch(pipe: Any, index: int, given: dict[str, Any]) -> dict[str, Any]:
        if index == 1:
            network.set_adapters(["other"], [2.0])
        return {}

    with fs.accelerate(tiny.pipe, fs.Policy(RARE.schedule, RARE.forecaster, site=site)) as handle:
        for _ in range(2):
            network.set_adapters(["one"], [1.0])
            run(tiny, switch)
            assert handle.record is not None
            assert handle.record.computed_steps == (0, 2, 6)  # rebuilt from step 2 on
            assert [step for step, _ in handle.record.begun_late] == [2]
        tiny.run(8)
        assert handle.record.computed_steps == (0, 4)


@pytest.mark.cell("runs", "a LoRA scale given with the pipeline's call", "works")
def test_a_scale_given_with_the_call() -> None:
    peft = pytest.importorskip("peft")
    tiny = build("flux")
    config = peft.LoraConfig(r=3, lora_alpha=4.3, target_modules=["to_q", "to_v"], init_lora_weights=False)
    tiny.pipe.transformer.add_adapter(config)
    tiny.pipe.transformer.requires_grad_(False)
    with fs.accelerate(tiny.pipe, RARE) as handle:
        for scale in (0.7, 0.1, 0.33):
            tiny.run(8, joint_attention_kwargs={"scale": scale})
            assert handle.record is not None
            assert handle.record.computed_steps == (0, 4)
            assert handle.record.begun_late == []


class Attention(nn.Module):
    def __init__(self, processor: Any) -> None:
        super().__init__()
        self.processor = processor


class Processor:
    def __init__(self) -> None:
        self.scale = [1.0]


class ModuleProcessor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = [1.0]


@pytest.mark.cell("runs", "an IP-adapter's scale or an attention processor changed during a run", "works")
@pytest.mark.parametrize("kind", [Processor, ModuleProcessor])
def test_settings_are_seen_to_change(kind: type[Any]) -> None:
    network = nn.Sequential(nn.Linear(2, 2), Attention(kind()))
    settings = NetworkState(network).adapters
    assert not settings.changed()
    network[1].processor.scale[0] = 0.0
    assert settings.changed()
    assert not settings.changed()
    network[1].processor = kind()
    assert settings.changed()
    nn.init.zeros_(network[0].weight)  # weights are moved and replaced by offloading
    assert not settings.changed()


OTHER = embeds(1, 6, 32, seed=70)
MINE = embeds(1, 6, 32, seed=71)


def replaced(pipe: Any, index: int, given: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_embeds": OTHER}


def alternating(pipe: Any, index: int, given: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_embeds": MINE if index % 2 else OTHER}


def written(pipe: Any, index: int, given: dict[str, Any]) -> dict[str, Any]:
    if index == 0:
        given["prompt_embeds"].copy_(OTHER)
    return {}


def written_later(pipe: Any, index: int, given: dict[str, Any]) -> dict[str, Any]:
    if index == 2:
        given["prompt_embeds"].copy_(OTHER)
    return {}


PROMPTS: list[tuple[Change, tuple[tuple[int, ...], ...]]] = [
    (replaced, ((0, 1, 5), (0, 2, 6))),  # noticed when the new prompt is given again, at the latest
    (alternating, ((0, 3, 5, 6, 7), (0, 1, 3, 5, 6, 7))),  # noticed when a prompt comes again
    (written, ((0, 1, 5),)),
    (written_later, ((0, 3, 7),)),
]


@pytest.mark.cell("runs", "a prompt replaced after step 1, or changed in place: noticed by step 2", "works")
@pytest.mark.parametrize("name", ["flux", "sd3"])
@pytest.mark.parametrize(("change", "computed"), PROMPTS)
def test_a_changed_prompt(name: str, change: Change, computed: tuple[tuple[int, ...], ...]) -> None:
    tiny = build(name)
    with fs.accelerate(tiny.pipe, RARE) as handle:
        run(tiny, change)
        assert handle.record is not None
        assert handle.record.computed_steps in computed
        assert handle.record.calls == handle.record.steps


def own_loop(change: Callable[[int, dict[int, Tensor]], None]) -> dict[tuple[int, int], Tensor]:
    """Two generations on one U-Net with the same embedding, distinguished by their samples only."""
    unet, scheduler = build("stable_diffusion").pipe.unet, diffusers.DDIMScheduler()
    scheduler.set_timesteps(6)
    embedding, outputs = embeds(1, 6, 32), {}
    samples = {seed: torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)}
    with torch.no_grad(), fs.accelerate(unet, RARE, scheduler=scheduler):
        for step, t in enumerate(scheduler.timesteps):
            change(step, samples)
            for seed, sample in list(samples.items()):
                outputs[seed, step] = unet(sample, t, encoder_hidden_states=embedding).sample
                samples[seed] = scheduler.step(outputs[seed, step], t, sample).prev_sample
    return outputs


@pytest.mark.cell("runs", "several runs of one prompt in one loop, one of them dropped", "works")
def test_a_generation_dropped() -> None:
    def drop(step: int, samples: dict[int, Tensor]) -> None:
        if step == 1:
            samples.pop(0)

    outputs = own_loop(drop)
    assert torch.equal(outputs[1, 1], outputs[1, 0])  # reused: its own
    assert not torch.equal(outputs[1, 1], outputs[0, 0])


@pytest.mark.cell("runs", "your own loop after an aborted run: memory of the old run is bounded", "works")
def test_foreign_calls_after_a_run_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, scheduler = build("flux"), diffusers.FlowMatchEulerDiscreteScheduler()
    network = tiny.pipe.transformer
    given = {
        "encoder_hidden_states": OTHER,
        "pooled_projections": torch.zeros(1, 32),
        "txt_ids": torch.zeros(6, 3),
        "img_ids": torch.zeros(64, 3),
    }
    if network.config.guidance_embeds:
        given["guidance"] = torch.ones(1)

    def broken_off(pipe: Any, index: int, _: dict[str, Any]) -> dict[str, Any]:
        if index == 1:
            raise KeyError
        return {}

    with fs.accelerate(tiny.pipe, policy()) as handle, torch.no_grad():
        tiny.run(8)  # by it the scale of timesteps is known
        with pytest.raises(KeyError):
            run(tiny, broken_off)
        tracker = network._diffusers_hook.get_hook(HOOK_NAME).tracker()
        scheduler.set_timesteps(2 * MOST_CALLS)
        x = torch.zeros(1, 64, network.config.in_channels)
        with pytest.warns(ForeseerWarning, match="belongs to another run"):
            for t in scheduler.timesteps:
                network(x, timestep=t.expand(1) / 1000, **given)
        assert sum(len(branch.run.store) for branch in tracker._branches.values()) < 8
        handle.detach_silently()


@pytest.mark.cell("runs", "more calls at one step than a run can have", "fails open")
def test_more_calls_at_a_step_than_any_run_has() -> None:
    unet, scheduler = build("stable_diffusion").pipe.unet, diffusers.DDIMScheduler()
    scheduler.set_timesteps(6)
    sample, embedding = torch.zeros(1, 4, 16, 16), embeds(1, 6, 32)
    with torch.no_grad(), fs.accelerate(unet, policy(), scheduler=scheduler) as handle:
        for _ in range(MOST_CALLS):
            unet(sample, scheduler.timesteps[0], encoder_hidden_states=embedding)
        with pytest.warns(ForeseerWarning, match=f"more than {MOST_CALLS} times"):
            unet(sample, scheduler.timesteps[0], encoder_hidden_states=embedding)
        handle.detach_silently()


@pytest.mark.cell("hosts", "a cache of diffusers' functions, put in before attaching", "refused")
def test_a_cache_inside_before() -> None:
    pipe = build("flux").pipe
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(AttachError, match="Another cache is at work inside the transformer"):
        fs.accelerate(pipe, policy())


@pytest.mark.cell("hosts", "a cache of diffusers' functions, put in after attaching", "fails open")
def test_a_cache_inside_after() -> None:
    tiny = build("flux")
    with fs.accelerate(tiny.pipe, policy()) as handle:
        apply_first_block_cache(tiny.pipe.transformer, FirstBlockCacheConfig(threshold=0.1))
        with pytest.warns(ForeseerWarning, match="another cache was put inside the model"):
            tiny.run(8)
        assert handle.record is not None
        assert handle.record.forecast == {}
