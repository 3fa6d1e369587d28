"""Pipelines put together of diffusers' modular blocks."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer.errors import AttachError
from tests.support.attaching import STEPS, policy
from tests.support.pipelines import TOKENS, WIDTH, build, embeds, randomise

SITES = pytest.mark.parametrize("site", ["output", "last_block"])


def modular() -> Any:
    """Flux's denoising blocks, on the tiny transformer."""
    blocks = pytest.importorskip("diffusers.modular_pipelines.flux.modular_blocks_flux")
    if not hasattr(blocks, "FluxCoreDenoiseStep"):
        pytest.skip("this diffusers has no modular denoising step for Flux")
    tiny = build("flux")
    pipe = blocks.FluxCoreDenoiseStep().init_pipeline()
    pipe.update_components(transformer=tiny.pipe.transformer, scheduler=tiny.pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Any, steps: int = STEPS) -> Tensor:
    given = {"prompt_embeds": embeds(1, TOKENS, WIDTH), "pooled_prompt_embeds": embeds(1, WIDTH)}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return pipe(**given, height=64, width=64, num_inference_steps=steps, generator=generator, output="latents")


@pytest.mark.cell("hosts", "a modular pipeline, attached as a whole", "works")
@SITES
def test_a_modular_pipeline(site: str) -> None:
    pipe = modular()
    plain = run(pipe)
    with fs.accelerate(pipe, policy(site, fs.schedule.Uniform(1))):
        assert torch.equal(run(pipe), plain)
    with fs.accelerate(pipe, policy(site)) as handle:
        first = run(pipe)
        assert handle.record.forecast == {"call 1": [1, 3, 5, 7]}
        run(pipe, 5)
        assert handle.record.forecast == {"call 1": [1, 3]}
        assert torch.equal(run(pipe), first)
        assert handle.record.failed_open == []
    assert not torch.equal(first, plain)
    assert torch.equal(run(pipe), plain)


@pytest.mark.cell("hosts", "a modular pipeline's transformer, attached with its scheduler", "works")
@SITES
def test_its_transformer(site: str) -> None:
    pipe = modular()
    with fs.accelerate(pipe, policy(site)):
        expected = run(pipe)
    with fs.accelerate(pipe.transformer, policy(site), scheduler=pipe.scheduler) as handle:
        assert torch.equal(run(pipe), expected)
    assert handle.record.nfe == 4


def minimax_h3(partition: str) -> Any:
    """MiniMax-H3's denoising blocks, on the network of prompts or of references."""
    blocks = pytest.importorskip("diffusers.modular_pipelines.minimax_h3")
    kind = blocks.modular_blocks_minimax_h3.MiniMaxH3CoreDenoiseStep
    if partition == "transformer_ref":
        own = {"MiniMaxH3DenoiseStep": blocks.denoise.MiniMaxH3Ref2VADenoiseStep}
        kind = type("Reference", (kind,), {"block_classes": [own.get(k.__name__, k) for k in kind.block_classes]})
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "num_refiner_layers": 1}
    widths = dict.fromkeys(("text_dim", "freq_dim", "time_embed_hidden_dim", "time_embed_dim"), 16)
    network = diffusers.MiniMaxH3Transformer3DModel(**sizes, **widths, hidden_size=32, ffn_dim=32, rope_freq_dim=2)
    pipe = kind().init_pipeline()
    schedulers = {name: diffusers.MiniMaxH3Scheduler() for name in ("scheduler", "audio_scheduler")}
    pipe.update_components(**{partition: randomise(network, 1)}, **schedulers)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.cell("hosts", "MiniMax-H3's modular blocks, with prompts or references: a video and its sound", "works")
@pytest.mark.parametrize("partition", ["transformer", "transformer_ref"])
@pytest.mark.parametrize("site", ["output", "last_block", "modules"])
def test_a_network_of_any_name_that_is_given_new_indices_at_each_step(partition: str, site: str) -> None:
    pipe = minimax_h3(partition)
    size = {"height": 32, "width": 32, "num_frames": 124}

    def draw(steps: int = STEPS) -> list[Tensor]:
        prompt = {"prompt_embeds": embeds(1, 5, 16), "text_token_tags": torch.ones(5, dtype=torch.long)}
        outputs = ["latents", "audio_latents"]
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            state = pipe(**prompt, **size, num_inference_steps=steps, generator=generator, output=outputs)
        return [state[name].clone() for name in outputs]

    plain = draw()
    with fs.accelerate(pipe, policy(site, fs.schedule.Uniform(1))):
        assert all(map(torch.equal, draw(), plain))
    with fs.accelerate(pipe, policy(site), strict=True) as handle:
        first = draw()
        assert handle.record.computed == {"call 1": [0, 2, 4, 6]}
        assert handle.record.forecast == {"call 1": [1, 3, 5]}  # its scheduler makes a step less than asked for
        draw(5)
        assert all(map(torch.equal, draw(), first))
    assert not any(map(torch.equal, first, plain))


@pytest.mark.cell("visible", "another transformer by `update_components` while attached: a warning", "works")
def test_updated_components_are_said() -> None:
    pipe = modular()
    plain = run(pipe)
    handle = fs.accelerate(pipe, policy())
    pipe.update_components(transformer=copy.deepcopy(pipe.transformer))
    assert torch.equal(run(pipe), plain)
    with pytest.warns(fs.ForeseerWarning, match="transformer was replaced after attaching"):
        handle.detach()


@pytest.mark.cell("hosts", "a modular pipeline without components", "refused")
def test_without_components() -> None:
    blocks = pytest.importorskip("diffusers.modular_pipelines.flux.modular_blocks_flux")
    with pytest.raises(AttachError, match=r"fs.accelerate\(module, policy, scheduler=...\)"):
        fs.accelerate(blocks.FluxAutoBlocks().init_pipeline(), policy())
