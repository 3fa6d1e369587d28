"""Pipelines put together of diffusers' modular blocks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer.errors import AttachError
from tests.support.attaching import STEPS, policy
from tests.support.pipelines import TOKENS, WIDTH, build, embeds

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
