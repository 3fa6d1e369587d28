"""Runs that are changed, guided or rewritten: nothing of one is left in the next."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foreseer as fs
from tests.robustness.served import FORECAST, TRANSFORMERS
from tests.support.attaching import STEPS, accelerated, policy, tiny
from tests.support.pipelines import build, embeds, pair, pooled

COMPUTED = [0, 2, 4, 6]


@pytest.mark.cell("runs", "several images per prompt, batches of embeddings, given latents", "works")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("flux", {"num_images_per_prompt": 2}),
        ("flux", {"batch": 3}),
        ("flux", {"latents": embeds(1, 16, 16)}),
        pytest.param("qwen_image", {"num_images_per_prompt": 2}, marks=pytest.mark.slow),
        pytest.param("qwen_image", {"batch": 3}, marks=pytest.mark.slow),
        pytest.param("sd3", {"latents": embeds(1, 4, 8, 8)}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_batches_and_latents(name: str, options: dict[str, Any]) -> None:
    fresh, whole = accelerated(name, **options), tiny(name)
    with fs.accelerate(whole.pipe, policy()) as handle:
        ordinary = whole.run()
        assert torch.equal(whole.run(**options), fresh)
        assert handle.record.forecast == dict.fromkeys(whole.branches, FORECAST)
        assert torch.equal(whole.run(), ordinary)
    with fs.accelerate(whole.pipe, policy(rule=fs.schedule.Uniform(1))):
        every = whole.run(**options)
    assert torch.equal(every, whole.run(**options))


@pytest.mark.cell("runs", "guidance switched on and off between runs", "works")
@pytest.mark.parametrize("site", ["output", "last_block"])
def test_guidance_on_and_off(site: str) -> None:
    fresh = {scale: accelerated("qwen_image", site=site, true_cfg_scale=scale) for scale in (1.0, 4.0)}
    with fs.accelerate(tiny("qwen_image").pipe, policy(site)) as handle:
        for scale in (4.0, 1.0, 4.0, 1.0, 1.0):
            assert torch.equal(tiny("qwen_image").run(true_cfg_scale=scale), fresh[scale])
            branches = ("cond", "uncond") if scale > 1 else ("cond",)
            assert handle.record.forecast == dict.fromkeys(branches, FORECAST)
    assert not torch.equal(fresh[1.0], fresh[4.0])


@pytest.mark.cell("runs", "guidance that starts late and stops early", "works")
def test_guidance_of_a_part_of_the_run() -> None:
    diffusers = pytest.importorskip("diffusers")
    video = build("hunyuan_video_1_5")
    ordinary = video.pipe.guider
    video.pipe.guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.0, start=0.25, stop=0.76)
    expected = video.run()
    with fs.accelerate(video.pipe, policy(rule=fs.schedule.Uniform(1))) as handle:
        assert torch.equal(video.run(), expected)
        names = list(handle.record.computed)
        guided = handle.record.computed[names[1]]
        assert guided == list(range(guided[0], guided[-1] + 1))
        assert (guided[0], guided[-1]) != (0, STEPS - 1)
    with fs.accelerate(video.pipe, policy()) as handle:
        first = video.run()
        assert handle.record.failed_open == []
        assert handle.record.computed[names[0]] == COMPUTED
        assert handle.record.computed[names[1]] == guided[::2]
        assert handle.record.forecast[names[1]] == guided[1::2]
        video.pipe.guider = ordinary
        video.run()
        video.pipe.guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.0, start=0.25, stop=0.76)
        assert torch.equal(video.run(), first)


@pytest.mark.cell("runs", "skip-layer guidance: an extra call at some steps", "works")
@pytest.mark.parametrize("site", ["output", "last_block"])
def test_skip_layer_guidance(site: str) -> None:
    options = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.2, "skip_layer_guidance_stop": 0.8}
    sd3 = tiny("sd3")
    expected = sd3.run(**options)
    with fs.accelerate(sd3.pipe, policy(site, fs.schedule.Uniform(1))) as handle:
        assert torch.equal(sd3.run(**options), expected)
        extra = handle.record.computed["call 2"]
    with fs.accelerate(sd3.pipe, policy(site)) as handle:
        first = sd3.run(**options)
        assert handle.record.computed == {"call 1": COMPUTED, "call 2": extra[::2]}
        sd3.run()
        assert handle.record.computed == {"call 1": COMPUTED}
        assert torch.equal(sd3.run(**options), first)


@pytest.mark.cell("runs", "a callback that changes the latents", "works")
@TRANSFORMERS
def test_rewritten_latents(name: str) -> None:
    whole = tiny(name)

    def shrink(pipe: Any, index: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {"latents": 0.9 * given["latents"]}

    expected = whole.run(callback_on_step_end=shrink)
    with fs.accelerate(whole.pipe, policy(rule=fs.schedule.Uniform(1))):
        assert torch.equal(whole.run(callback_on_step_end=shrink), expected)
    fresh = accelerated(name, callback_on_step_end=shrink)
    with fs.accelerate(whole.pipe, policy()) as handle:
        ordinary = whole.run()
        assert torch.equal(whole.run(callback_on_step_end=shrink), fresh)
        assert handle.record.forecast == dict.fromkeys(whole.branches, FORECAST)
        assert torch.equal(whole.run(), ordinary)


@pytest.mark.cell("runs", "a callback that changes the prompt: old features are not used", "works")
def test_a_rewritten_prompt() -> None:
    other = embeds(1, 6, 32, seed=70)

    def change(pipe: Any, index: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": other if index >= 2 else given["prompt_embeds"]}

    options = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with fs.accelerate(tiny("flux").pipe, policy()) as handle:
        first = tiny("flux").run(**options)
        assert handle.record.computed == {"cond": [0, 2], "cond 2": [3, 5, 7]}
        assert handle.record.forecast == {"cond": [1], "cond 2": [4, 6]}
        assert handle.record.failed_open == []
        assert torch.equal(tiny("flux").run(**options), first)


@pytest.mark.cell("runs", "base and refiner: a run that ends early (`denoising_end`), then a whole one", "works")
@pytest.mark.parametrize("site", ["output", "last_block"])
def test_refiner_hand_over(site: str) -> None:
    base = tiny("sdxl")
    expected, whole = base.run(denoising_end=0.5), accelerated("sdxl", site=site)
    with fs.accelerate(base.pipe, policy(site, fs.schedule.Uniform(1))) as handle:
        assert torch.equal(base.run(denoising_end=0.5), expected)
        visited = handle.record.computed["call 1"]
    assert 0 < visited[-1] < STEPS - 1
    with fs.accelerate(base.pipe, policy(site)) as handle:
        found = base.run(denoising_end=0.5)
        assert handle.record.computed == {"call 1": visited[::2]}
        assert handle.record.forecast == {"call 1": visited[1::2]}
        assert torch.equal(base.run(), whole)
        assert torch.equal(base.run(denoising_end=0.5), found)


@pytest.mark.cell("runs", "refiner: a run that starts at `denoising_start` from the base's latents", "works")
@pytest.mark.parametrize("site", ["output", "last_block"])
def test_the_refiners_half(site: str) -> None:
    refiner, latents = build("sdxl_img2img"), tiny("sdxl").run(denoising_end=0.5)
    refiner.pipe.scheduler = type(refiner.pipe.scheduler).from_config(tiny("sdxl").pipe.scheduler.config)

    def half() -> torch.Tensor:
        given = {**pair(1), **pooled(1), "image": latents, "denoising_start": 0.5, "output_type": "latent"}
        return refiner.pipe(**given, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0)).images

    plain = half()
    with fs.accelerate(refiner.pipe, policy(site, fs.schedule.Uniform(1))) as handle:
        assert torch.equal(half(), plain)
        visited = handle.record.computed["call 1"]
    with fs.accelerate(refiner.pipe, policy(site)) as handle:
        found = half()
        assert handle.record.computed == {"call 1": visited[::2]}
        assert handle.record.forecast == {"call 1": visited[1::2]}
        whole = refiner.run()
        assert torch.equal(half(), found)
        assert torch.equal(refiner.run(), whole)
    assert not torch.equal(found, plain)
