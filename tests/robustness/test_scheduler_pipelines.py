"""Whole pipelines of schedulers with a special loop, which `loops.py` leaves out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import foreseer as fs
from tests.support.attaching import STEPS, policy
from tests.support.networks import HEADS, sana_model
from tests.support.parts import tiny_wan_vae
from tests.support.pipelines import TOKENS, WIDTH, StandIn, assemble, build, embeds, pair, randomise, square

Run = Callable[..., Tensor]


def _runner(pipe: Any, result: str, **given: Any) -> tuple[Any, Run]:
    def run() -> Tensor:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)  # Helios drew its block noise without the generator at first
            output = pipe(generator=torch.Generator().manual_seed(0), **given)
        return torch.as_tensor(getattr(output, result))

    return pipe, run


def cogvideox() -> tuple[Any, Run]:
    """CogVideoX under its DPM solver."""
    tiny = build("cogvideox")
    tiny.pipe.scheduler = diffusers.CogVideoXDPMScheduler()
    return tiny.pipe, partial(tiny.run, STEPS)


def sana_sprint() -> tuple[Any, Run]:
    """Sana Sprint in more than its two steps."""
    model = sana_model(guidance_embeds=True)
    pipe = assemble(diffusers.SanaSprintPipeline, transformer=randomise(model), scheduler=diffusers.SCMScheduler())
    prompt = {"prompt_embeds": embeds(1, TOKENS, WIDTH), "prompt_attention_mask": torch.ones(1, TOKENS).long()}
    steps = {"num_inference_steps": STEPS, "intermediate_timesteps": None, "use_resolution_binning": False}
    return _runner(pipe, "images", **prompt, **steps, **square(256))


def stable_cascade() -> tuple[Any, Run]:
    """Stable Cascade's prior, whose network is called ``prior`` and gets a ratio."""
    blocks = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")
    model = diffusers.StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        conditioning_dim=16,
        timestep_ratio_embedding_dim=16,
        block_out_channels=(16, 32),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(blocks, blocks),
        clip_text_in_channels=WIDTH,
        clip_text_pooled_in_channels=WIDTH,
        clip_image_in_channels=WIDTH,
        clip_seq=2,
        switch_level=(False,),
        dropout=(0.0, 0.0),
    )
    components = {"scheduler": diffusers.DDPMWuerstchenScheduler(), "text_encoder": StandIn({})}
    pipe = assemble(diffusers.StableCascadePriorPipeline, prior=randomise(model), **components)
    pooled = {f"{prefix}prompt_embeds_pooled": embeds(1, 1, WIDTH) for prefix in ("", "negative_")}
    given = {**pair(1), **pooled, "num_inference_steps": STEPS, "output_type": "pt"}
    return _runner(pipe, "image_embeddings", **given, height=256, width=256)


def helios(distilled: bool) -> tuple[Any, Run]:
    """Helios' pyramid, distilled or not."""
    if not hasattr(diffusers, "HeliosPyramidPipeline"):
        pytest.skip("a diffusers from before Helios")
    model = diffusers.HeliosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        rope_dim=(4, 6, 6),
        **HEADS,
        num_layers=2,
    )
    kind = diffusers.HeliosDMDScheduler if distilled else diffusers.HeliosScheduler
    components = {"scheduler": kind(gamma=0.3), "vae": tiny_wan_vae(), "is_distilled": distilled}
    pipe = assemble(diffusers.HeliosPyramidPipeline, transformer=randomise(model), **components)
    return _runner(pipe, "frames", **pair(1), pyramid_num_inference_steps_list=[STEPS] * 3, num_frames=9, **square(64))


PIPELINES: dict[str, Callable[[], tuple[Any, Run]]] = {
    "CogVideoX, DPM": cogvideox,
    "Sana Sprint": sana_sprint,
    "Stable Cascade's prior": stable_cascade,
    "Helios": partial(helios, False),
    "Helios, distilled": partial(helios, True),
}


@pytest.mark.cell("runs", "pipelines with their own sampling loop: CogVideoX, Sana Sprint, Cascade, Helios", "works")
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_with_a_loop_of_its_own(name: str) -> None:
    pipe, run = PIPELINES[name]()
    expected = run()
    with fs.accelerate(pipe, policy(rule=fs.schedule.Uniform(1))):
        assert torch.equal(run(), expected)
    with fs.accelerate(pipe, policy(), strict=True) as handle:
        first = run()
        assert handle.record.steps == STEPS
        assert set(map(tuple, handle.record.computed.values())) == {(0, 2, 4, 6)}
        assert set(map(tuple, handle.record.forecast.values())) == {(1, 3, 5, 7)}
        assert handle.record.begun_late == []
        assert torch.equal(run(), first)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, expected)
    assert torch.equal(run(), expected)
