"""SGLang's hooks on a stand-in with the signatures read in sglang 0.5.23."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from foreseer.hosts.choice import Choice, ChoiceError
from foreseer.hosts.sglang import KEY, SGLangHooks
from tests.unit.hosts.signatures import arguments, definition, fields, source_of

STEPS = 10
SOURCE = source_of("sglang", "SGLANG_SOURCE")
CONTEXT = SimpleNamespace(current_timestep=0, forward_batch=None)


class Network:
    """A smooth field; counts its calls."""

    def __init__(self, phase: float = 0.0) -> None:
        self.calls, self.phase = 0, phase

    def __call__(self, hidden_states: Tensor, timestep: Tensor, prompt: float) -> Tensor:
        self.calls += 1
        return torch.sin(hidden_states + float(timestep) / 300 + prompt + self.phase)


class DenoisingStage:
    """The methods that hooks go around, and a loop that calls them as the stage does."""

    def __init__(self, network: Network, second: Network | None = None) -> None:
        self.transformer, self.transformer_2 = network, second

    def _before_denoising_loop(self, ctx: Any, batch: Any, server_args: Any) -> None:
        ctx.scheduler.set_begin_index(0)

    def _predict_noise(
        self,
        current_model: Any,
        latent_model_input: Any,
        timestep: Any,
        target_dtype: Any,
        guidance: Any,
        **kwargs: Any,
    ) -> Any:
        return current_model(hidden_states=latent_model_input, timestep=timestep, **kwargs)

    def _finalize_denoising_loop(self, ctx: Any, batch: Any, server_args: Any) -> None:
        batch.extra_at_decode = dict(batch.extra)

    def denoise(self, batch: Any, stop: int | None = None) -> Tensor:
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(batch.steps)
        ctx = SimpleNamespace(scheduler=scheduler, timesteps=scheduler.timesteps, latents=batch.latents)
        self._before_denoising_loop(ctx, batch, None)
        for step, t in enumerate(scheduler.timesteps):
            if step == stop:
                raise InterruptedError
            late = self.transformer_2 is not None and step >= batch.steps // 2
            outputs = []
            for is_negative, prompt in ((False, 1.0), (True, 0.0)):
                batch.is_cfg_negative = is_negative
                CONTEXT.current_timestep, CONTEXT.forward_batch = step, batch
                outputs.append(
                    self._predict_noise(
                        current_model=self.transformer_2 if late else self.transformer,
                        latent_model_input=ctx.latents,
                        timestep=t,
                        target_dtype=torch.float32,
                        guidance=None,
                        prompt=prompt,
                    )
                )
            noise_pred = outputs[1] + 2.0 * (outputs[0] - outputs[1])
            ctx.latents = scheduler.step(noise_pred, t, ctx.latents, return_dict=False)[0]
        self._finalize_denoising_loop(ctx, batch, None)
        return ctx.latents


def request(quality: str = "high", steps: int = STEPS, **fields_: Any) -> Any:
    latents = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(fields_.pop("seed", 0)))
    parameters = SimpleNamespace(quality=quality)
    return SimpleNamespace(
        extra={}, sampling_params=parameters, is_warmup=False, steps=steps, latents=latents, **fields_
    )


def hooked(options: dict[str, Any], *networks: Network) -> DenoisingStage:
    """A stage whose class has the hooks, applied as the registry applies AROUND hooks."""
    hooks = SGLangHooks.from_options(options, lambda: CONTEXT)
    own = type("Hooked", (DenoisingStage,), {})
    for target, hook in hooks.targets().items():
        name = target.rsplit(".", 1)[1]
        if hasattr(DenoisingStage, name):
            original = getattr(DenoisingStage, name)
            around = lambda *args, hook=hook, original=original, **kwargs: hook(original, *args, **kwargs)  # noqa: E731
            setattr(own, name, around)
    return own(*networks)


@pytest.mark.parametrize("quality", ["exact", "lossless"])
def test_requests_of_other_qualities_are_not_touched(quality: str) -> None:
    network = Network()
    batch = request(quality)
    found = hooked({"speedup": 2}, network).denoise(batch)
    assert torch.equal(found, DenoisingStage(Network()).denoise(request()))
    assert network.calls == 2 * STEPS
    assert batch.extra == {}


def test_half_of_the_calls_are_computed_at_quality_high() -> None:
    network = Network()
    batch = request()
    found = hooked({"speedup": 2}, network).denoise(batch)
    expected = DenoisingStage(Network()).denoise(request())
    assert network.calls == STEPS
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.1
    assert batch.extra_at_decode == {}  # freed before the picture is decoded


def test_always_serves_every_quality_and_a_budget_of_all_steps_is_bit_identical() -> None:
    network = Network()
    found = hooked({"speedup": 1, "always": True}, network).denoise(request("exact"))
    assert torch.equal(found, DenoisingStage(Network()).denoise(request()))
    network = Network()
    hooked({"nfe": 3, "always": True}, network).denoise(request("exact"))
    assert network.calls == 6


def test_warm_up_requests_and_cache_dit_compute() -> None:
    network = Network()
    batch = request()
    batch.is_warmup = True
    hooked({"speedup": 2}, network).denoise(batch)
    stage = hooked({"speedup": 2}, network)
    stage._cache_dit_enabled = True
    stage.denoise(request())
    assert network.calls == 4 * STEPS


def test_two_transformers_share_a_budget_and_nothing_else() -> None:
    first, second = Network(), Network(2.0)
    hooked({"nfe": 5}, first, second).denoise(request())
    assert first.calls > 0
    assert second.calls > 0
    assert first.calls + second.calls <= 2 * 6


def test_requests_follow_each_other_as_if_alone_also_after_an_abort() -> None:
    stage = hooked({"speedup": 2}, Network())
    with pytest.raises(InterruptedError):
        stage.denoise(request(seed=9), stop=4)
    for seed, steps in ((1, 10), (2, 17), (1, 10)):
        found = stage.denoise(request(seed=seed, steps=steps))
        assert torch.equal(found, hooked({"speedup": 2}, Network()).denoise(request(seed=seed, steps=steps)))


def test_a_loop_that_goes_back_to_earlier_steps_computes_them() -> None:
    network, network_alone = Network(), Network()
    stage, alone = hooked({"speedup": 2}, network), DenoisingStage(network_alone)
    batch, scheduler = request(), FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    ctx = SimpleNamespace(scheduler=scheduler, timesteps=scheduler.timesteps)
    stage._before_denoising_loop(ctx, batch, None)
    CONTEXT.forward_batch, batch.is_cfg_negative = batch, False
    outputs = {}
    for step in (0, 1, 2, 3, 1, 2, STEPS):
        CONTEXT.current_timestep = step
        arguments_ = (batch.latents, scheduler.timesteps[min(step, STEPS - 1)], torch.float32, None)
        outputs[step] = stage._predict_noise(network, *arguments_, prompt=1.0)
    assert torch.equal(
        outputs[1], alone._predict_noise(network_alone, batch.latents, scheduler.timesteps[1], None, None, prompt=1.0)
    )
    assert network.calls == 3 + len(batch.extra[KEY].run.record.computed["cond of model 1"])


def test_a_loop_that_begins_late_on_its_scheduler_is_served() -> None:
    hooks = SGLangHooks.from_options({"speedup": 2}, lambda: CONTEXT)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    for kept, served in ((6, True), (STEPS + 1, False)):
        timesteps = scheduler.timesteps[-kept:] if served else torch.cat([scheduler.timesteps, torch.zeros(1)])
        batch, ctx = request(), SimpleNamespace(scheduler=scheduler, timesteps=timesteps)
        hooks.begin(lambda *args: None, SimpleNamespace(), ctx, batch, None)
        assert (KEY in batch.extra) == served
        if served:
            assert len(batch.extra[KEY].run.grid) == kept


def test_options_are_refused_when_registered() -> None:
    for options in ({"speedups": 2}, {"method": "forecast-error"}, {"quality": "high"}):
        with pytest.raises(ChoiceError):
            SGLangHooks.from_options(options, lambda: CONTEXT)


def test_the_diffusers_back_end_is_attached_per_request() -> None:
    from tests.support.pipelines import build

    tiny = build("flux")
    hooks = SGLangHooks.from_options({"nfe": 4}, lambda: CONTEXT)
    stage = SimpleNamespace(diffusers_pipe=tiny.pipe)
    calls = []
    handle = tiny.pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    plain = hooks.run_diffusers(lambda *_: tiny.run(8), stage, request("lossless"), None)
    assert len(calls) == 8
    served = hooks.run_diffusers(lambda *_: tiny.run(8), stage, request("high"), None)
    assert len(calls) == 12
    again = hooks.run_diffusers(lambda *_: tiny.run(8), stage, request("lossless"), None)
    handle.remove()
    assert torch.equal(plain, again)
    assert not torch.equal(plain, served)


@pytest.mark.skipif(SOURCE is None, reason="SGLANG_SOURCE names no unpacked wheel, and sglang is not installed")
def test_the_signatures_are_the_packages() -> None:
    root = SOURCE / "multimodal_gen"
    denoising = "runtime/pipelines_core/stages/denoising.py"
    for name in ("_before_denoising_loop", "_predict_noise", "_finalize_denoising_loop"):
        ours = [*inspect.signature(getattr(DenoisingStage, name)).parameters]
        theirs = [name.lstrip("*") for name in arguments(definition(root, denoising, f"DenoisingStage.{name}"))]
        assert ours == theirs
    stage = definition(root, "runtime/pipelines/diffusers_pipeline.py", "DiffusersExecutionStage.forward")
    assert arguments(stage) == ["self", "batch", "server_args"]
    context = fields(definition(root, "runtime/managers/forward_context.py", "ForwardContext"))
    assert {"current_timestep", "forward_batch"} <= set(context)
    registry = arguments(definition(SOURCE, "srt/plugins/hook_registry.py", "HookRegistry.register"))
    assert registry[:4] == ["cls", "target", "hook", "hook_type"]
    text = (root / "configs/sample/sampling_params.py").read_text()
    assert 'QUALITY_LEVELS: tuple[str, ...] = ("exact", "lossless", "high")' in text
    assert Choice(speedup=2.0).standing_policy() is not None
