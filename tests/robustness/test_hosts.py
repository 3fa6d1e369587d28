"""What others do to an attached model, before or after: the policy is neither dropped nor doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.attention_processor import SlicedAttnProcessor
from torch import Tensor, nn

import foreseer as fs
from tests.robustness.served import FORECAST, SITES, WHEN, check_served
from tests.support.attaching import STEPS, TinyDenoiser, flow_scheduler, policy
from tests.support.pipelines import TOKENS, WIDTH, build, embeds, randomise


class Passing(ModelHook):
    """Stands in the way and lets pass."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.fn_ref.original_forward(*args, **kwargs)


@pytest.mark.cell("hosts", "another package's hook, removed while attached", "works")
def test_a_lower_hook_removed() -> None:
    tiny = build("flux")
    registry = HookRegistry.check_if_exists_or_initialize(tiny.pipe.transformer)
    registry.register_hook(Passing(), "other")
    check_served(tiny, lambda: registry.remove_hook("other"), "after")


@pytest.mark.cell("hosts", "accelerate's hooks added and removed while attached", "works")
def test_accelerates_hooks_come_and_go() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    tiny = build("flux")

    def come_and_go() -> None:
        add_hook_to_module(tiny.pipe.transformer, AlignDevicesHook(execution_device="cpu"))
        tiny.run()
        remove_hook_from_module(tiny.pipe.transformer, recurse=True)

    check_served(tiny, come_and_go, "after")


def counted(module: nn.Module) -> list[tuple[int, ...]]:
    """The shapes that ``module`` is called with from now on."""
    shapes: list[tuple[int, ...]] = []
    module.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    return shapes


@pytest.mark.cell("hosts", "attention slicing", "works")
@WHEN
@SITES
def test_attention_slicing(site: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sdxl, slices = build("sdxl"), []
    whole = SlicedAttnProcessor.__call__

    def count(self: SlicedAttnProcessor, *args: Any, **kwargs: Any) -> Tensor:
        slices.append(self.slice_size)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(SlicedAttnProcessor, "__call__", count)
    check_served(sdxl, lambda: sdxl.pipe.enable_attention_slicing("max"), when, site)
    assert slices
    assert set(slices) == {1}


@pytest.mark.cell("hosts", "VAE tiling", "works")
@pytest.mark.cell("hosts", "VAE slicing", "works")
@WHEN
@pytest.mark.parametrize("how", ["tiling", "slicing"])
def test_vae_tiling_and_slicing(how: str, when: str) -> None:
    dit = build("dit")
    vae = dit.pipe.vae
    vae.tile_latent_min_size, vae.tile_sample_min_size = 4, 8  # a picture has 8 x 8 latents

    def enable() -> None:
        (vae.enable_tiling if how == "tiling" else vae.enable_slicing)()

    with fs.accelerate(dit.pipe, policy()):
        whole = dit.run(batch=2)
    shapes = counted(vae.decoder)
    if when == "before":
        enable()
        plain = dit.run(batch=2)
        with fs.accelerate(dit.pipe, policy(rule=fs.schedule.Uniform(1))):
            assert torch.equal(dit.run(batch=2), plain)
        shapes.clear()
    with fs.accelerate(dit.pipe, policy()) as handle:
        if when == "after":
            assert torch.equal(dit.run(batch=2), whole)
            shapes.clear()
            enable()
        found = dit.run(batch=2)
        assert handle.record.forecast == {"call 1": FORECAST}
    if how == "slicing":
        assert [shape[0] for shape in shapes] == [1, 1]
        assert torch.allclose(found, whole, atol=1e-5)
    else:
        sides = (4, 4, 2)  # beginning at every third latent
        assert shapes == [(2, 4, height, width) for height in sides for width in sides]
        with fs.accelerate(dit.pipe, policy()):
            assert torch.equal(dit.run(batch=2), found)
        assert not torch.allclose(found, whole, atol=1e-5)  # tiles do not see each other


def flux_with_gradients(model: nn.Module, scheduler: Any) -> Tensor:
    """A sampling loop on Flux's transformer with gradients, as in fine-tuning through the sampler."""
    latents = embeds(1, 4, 16)
    words, pooled, places = embeds(1, TOKENS, WIDTH), embeds(1, WIDTH), torch.zeros(4, 3)
    scheduler.set_timesteps(STEPS, mu=1.0)
    for t in scheduler.timesteps:
        velocity = model(
            hidden_states=latents,
            timestep=t.expand(1) / 1000,
            pooled_projections=pooled,
            encoder_hidden_states=words,
            txt_ids=torch.zeros(TOKENS, 3),
            img_ids=places,
            return_dict=False,
        )[0]
        latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
    return latents


@pytest.mark.cell("hosts", "gradient checkpointing with gradients enabled: the same gradients", "fails open")
@pytest.mark.parametrize("site", ["output", "last_block", "modules"])
def test_gradient_checkpointing(site: str) -> None:
    tiny = build("flux")
    model, scheduler, checkpoints = tiny.pipe.transformer, tiny.pipe.scheduler, []
    model.train().requires_grad_(True).enable_gradient_checkpointing()
    checkpoint: Callable[..., Any] = model._gradient_checkpointing_func

    def count(block: Any, *args: Any) -> Any:
        checkpoints.append(block)
        return checkpoint(block, *args)

    model._gradient_checkpointing_func = count

    def gradients() -> list[Tensor]:
        model.zero_grad()
        checkpoints.clear()
        flux_with_gradients(model, scheduler).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    expected = gradients()
    assert len(checkpoints) == 3 * STEPS
    with fs.accelerate(model, policy(site), scheduler=scheduler) as handle:
        with pytest.warns(fs.ForeseerWarning, match="gradients are enabled: sample under") as said:
            found = gradients()
        assert len(said) == 1
        assert len(checkpoints) >= 3 * STEPS
        assert handle.record.computed == {"call 1": list(range(STEPS))}
        assert [one.step for one in handle.record.failed_open] == FORECAST
        checkpoints.clear()
        with torch.no_grad():  # and without gradients, in training mode, it forecasts
            flux_with_gradients(model, scheduler)
        assert handle.record.forecast == {"call 1": FORECAST}
        assert checkpoints == []
    assert len(found) == len(expected) > 0
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.cell("hosts", "`forward` replaced while attached: a warning when detaching", "works")
def test_replaced_calls_are_said() -> None:
    model, scheduler = randomise(TinyDenoiser(), 5), flow_scheduler()
    handle = fs.accelerate(model, policy(), scheduler=scheduler)
    replaced = model._compiled_call_impl = lambda x, timestep: x
    with pytest.warns(fs.ForeseerWarning, match="were replaced while Foreseer was attached"):
        handle.detach()
    assert model._compiled_call_impl is replaced
    assert "compile" not in vars(model)
