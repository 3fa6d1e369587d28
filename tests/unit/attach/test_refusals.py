"""What `fs.accelerate` refuses, and the remedy that it names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from torch import nn

import foreseer as fs
from foreseer.attach.interception import is_hooked
from foreseer.calibration.sampler import SamplerError
from foreseer.errors import AttachError, PlanError
from tests.support.attaching import TinyDenoiser, denoiser, flow_scheduler, policy, reference, tiny


def test_a_second_attachment_is_refused_and_the_first_lives_on() -> None:
    pipe = tiny("flux").pipe
    with fs.accelerate(pipe, policy()) as handle:
        with pytest.raises(AttachError, match=r"attached to this transformer already: .*handle\.detach\(\)"):
            fs.accelerate(pipe, policy("last_block"))
        with pytest.raises(AttachError, match="attached to this FluxTransformer2DModel already"):
            fs.accelerate(pipe.transformer, policy(), scheduler=pipe.scheduler)
        tiny("flux").run()
        assert handle.record.nfe == 4
    assert not is_hooked(pipe.transformer)
    assert torch.equal(tiny("flux").run(), reference("flux"))


def test_the_second_denoiser_refused_leaves_the_first_alone() -> None:
    pipe = tiny("wan_2_2").pipe
    with (
        fs.accelerate(pipe.transformer_2, policy(), scheduler=pipe.scheduler),
        pytest.raises(AttachError, match="this transformer_2 already"),
    ):
        fs.accelerate(pipe, policy())
    assert not is_hooked(pipe.transformer)
    assert not is_hooked(pipe.transformer_2)


@pytest.mark.parametrize(
    "config",
    [
        FirstBlockCacheConfig(threshold=0.1),
        PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500),
    ],
    ids=lambda config: type(config).__name__,
)
def test_the_models_own_cache_is_refused(config: Any) -> None:
    transformer = tiny("flux").pipe.transformer
    transformer.enable_cache(config)
    try:
        with pytest.raises(AttachError, match=r"own cache is enabled: call transformer.disable_cache\(\)"):
            fs.accelerate(tiny("flux").pipe, policy())
    finally:
        transformer.disable_cache()
    with fs.accelerate(tiny("flux").pipe, policy()) as handle:
        tiny("flux").run()
    assert handle.record.nfe == 4


def test_a_bare_module_without_its_scheduler_is_refused() -> None:
    with pytest.raises(AttachError, match=r"pass scheduler=.*fs\.wrap"):
        fs.accelerate(denoiser(), policy())


@pytest.mark.parametrize("wrong", [3, diffusers.DDIMScheduler, object()])
def test_what_is_no_scheduler_is_refused(wrong: Any) -> None:
    with pytest.raises(AttachError, match="Expected a scheduler of diffusers, received"):
        fs.accelerate(denoiser(), policy(), scheduler=wrong)
    with pytest.raises(SamplerError, match="Expected a scheduler of diffusers, received"):
        fs.sampler_matrix(wrong, 4)
    assert not is_hooked(denoiser())


@pytest.mark.usefixtures("as_users_call")
def test_what_cannot_be_called_is_not_wrapped() -> None:
    with pytest.raises(AttachError, match="Expected a function of"):
        fs.wrap(None, policy(), fs.Grid.uniform(4))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "thing",
    [
        SimpleNamespace(scheduler=flow_scheduler()),
        SimpleNamespace(scheduler=flow_scheduler(), transformer="words"),
        SimpleNamespace(scheduler=None, transformer=nn.Linear(2, 2)),
        SimpleNamespace(),
    ],
)
def test_what_holds_no_denoiser_or_no_scheduler_is_refused(thing: Any) -> None:
    missing = r"no scheduler" if getattr(thing, "scheduler", None) is None else r"transformer, transformer_2, unet"
    with pytest.raises(AttachError, match=missing + r".*scheduler=\.\.\."):
        fs.accelerate(thing, policy())


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("wrong", [fs.forecast.Reuse(), fs.schedule.Uniform(2), 3])
def test_what_is_no_policy_is_refused(wrong: Any) -> None:
    words = f"Expected a method's name, a Policy, .* received {type(wrong).__name__}"
    with pytest.raises(PlanError, match=words):
        fs.accelerate(tiny("flux").pipe, wrong)
    assert not is_hooked(tiny("flux").pipe.transformer)


@pytest.mark.usefixtures("as_users_call")
def test_an_unknown_keep_is_refused() -> None:
    with pytest.raises(AttachError, match="keep is 'disk'; expected one of device, host"):
        fs.accelerate(tiny("flux").pipe, policy(), keep="disk")
    assert not is_hooked(tiny("flux").pipe.transformer)


@pytest.mark.parametrize("how", ["torch.compile(model)", "model.compile()", "torch.compile(model.forward)"])
def test_a_site_inside_of_a_model_compiled_as_a_whole_is_refused(how: str) -> None:
    model: Any = TinyDenoiser()
    if how == "model.compile()":
        model.compile(backend="eager")
    elif how == "torch.compile(model.forward)":
        model.forward = torch.compile(model.forward, backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    with pytest.raises(AttachError, match=r"compile_repeated_blocks\(\)"):
        fs.accelerate(model, policy("last_block"), scheduler=flow_scheduler())


def test_a_replaced_forward_is_left_alone() -> None:
    model = TinyDenoiser()
    replaced = model.forward = lambda x, timestep: x
    with fs.accelerate(model, policy(), scheduler=flow_scheduler()):
        assert model.forward is replaced
    assert model.forward is replaced


@pytest.mark.parametrize("whole", [True, False])
def test_data_parallel_is_refused(whole: bool) -> None:
    scheduler, network = flow_scheduler(), nn.DataParallel(TinyDenoiser())
    target = SimpleNamespace(transformer=network, scheduler=scheduler) if whole else network
    with pytest.raises(AttachError, match=r"DataParallel.*one process per GPU"):
        fs.accelerate(target, policy(), scheduler=scheduler)
    assert not is_hooked(network)
