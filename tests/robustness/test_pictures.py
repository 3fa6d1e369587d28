"""Pipelines that are given a picture, in other forms than those that every contract is tested on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from tests.robustness.served import COMPUTED, FORECAST, SITES
from tests.support.attaching import STEPS, policy
from tests.support.attaching import tiny as made
from tests.support.pipelines import TinyPipeline


@contextmanager
def passes_of(module: nn.Module) -> Iterator[Counter[nn.Module]]:
    """How often each layer with weights runs."""
    passes: Counter[nn.Module] = Counter()
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(lambda layer, _: passes.update([layer])) for layer in layers]
    yield passes
    for hook in hooks:
        hook.remove()


def check(tiny: TinyPipeline, site: str, plain: Tensor) -> None:
    """An all-compute run equals ``plain`` bit for bit; runs that skip every second step are repeatable."""
    first = tiny.first_step(STEPS)
    visited = list(range(first, STEPS))
    with fs.accelerate(tiny.pipe, policy(site, fs.schedule.Uniform(1))) as handle:
        assert torch.equal(tiny.run(), plain)
        assert handle.record.computed == {"call 1": visited}
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        found = tiny.run()
        assert handle.record.computed == {"call 1": visited[::2]}
        assert handle.record.forecast == {"call 1": visited[1::2]}
        assert handle.record.failed_open == []
        assert torch.isfinite(found).all()
        assert not torch.equal(found, plain)
        assert torch.equal(tiny.run(), found)
    assert torch.equal(tiny.run(), plain)


@pytest.mark.cell("runs", "ControlNet on SDXL and Stable Diffusion 3: it runs at every step", "works")
@SITES
@pytest.mark.parametrize("name", ["sdxl_controlnet", "sd3_controlnet"])
def test_controlnet(name: str, site: str) -> None:
    tiny = made(name)
    plain = tiny.run()
    assert not torch.equal(tiny.run(controlnet_conditioning_scale=0.0), plain)  # it has a say
    check(tiny, site, plain)
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        tiny.run()
        with passes_of(tiny.pipe.controlnet) as control, passes_of(tiny.modules[0]) as denoiser:
            tiny.run()
        assert handle.record.computed == {"call 1": COMPUTED}
    assert min(control.values()) == STEPS
    assert min(denoiser.values()) == len(COMPUTED)
    assert max(denoiser.values()) == (len(COMPUTED) if site == "output" else STEPS)


@pytest.mark.cell("runs", "ControlNet for part of a run (`control_guidance_end`)", "works")
def test_controlnet_for_a_part() -> None:
    tiny = made("sdxl_controlnet")
    options = {"control_guidance_start": 0.2, "control_guidance_end": 0.6}
    plain = tiny.run(**options)
    assert not torch.equal(plain, tiny.run())
    with fs.accelerate(tiny.pipe, policy(rule=fs.schedule.Uniform(1))):
        assert torch.equal(tiny.run(**options), plain)
    with fs.accelerate(tiny.pipe, policy()) as handle:
        found = tiny.run(**options)
        assert handle.record.forecast == {"call 1": FORECAST}
        tiny.run()
        assert torch.equal(tiny.run(**options), found)


@pytest.mark.cell("runs", "inpainting on SDXL, with mask channels and by blending latents", "works")
@SITES
@pytest.mark.parametrize("name", ["sdxl_inpaint", "sdxl_inpaint_blended"])
def test_inpainting(name: str, site: str) -> None:
    tiny = made(name)
    check(tiny, site, tiny.run())
