"""Whenever the runtime is not certain it computes, and says so once."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor, nn

import foreseer as fs
from foreseer.errors import FailedOpenError
from foreseer.site import SITES
from tests.support.attaching import (
    EVERY_SECOND,
    STEPS,
    TinyDenoiser,
    denoise_flux,
    denoiser,
    flow_scheduler,
    policy,
    reference,
    sample,
    tiny,
)
from tests.support.pipelines import randomise


@pytest.mark.parametrize("site", SITES)
def test_a_plan_for_another_grid_computes_and_changes_no_bit(site: str) -> None:
    plan = policy(site).compile(fs.Grid.uniform(STEPS))
    with fs.accelerate(tiny("flux").pipe, fs.Policy.from_plan(plan)) as handle:
        with pytest.warns(fs.ForeseerWarning, match="another grid") as said:
            found = tiny("flux").run()
        assert torch.equal(tiny("flux").run(), found)  # a warning would be an error
    assert len(said) == 1
    assert torch.equal(found, reference("flux"))
    assert handle.record.nfe == STEPS
    assert [one.step for one in handle.record.failed_open] == list(range(STEPS))
    assert all("This plan is for another grid (8 steps" in one.reason for one in handle.record.failed_open)


def test_a_plan_serves_its_own_grid() -> None:
    with fs.accelerate(tiny("flux").pipe, policy()) as handle:
        expected = tiny("flux").run()
        plan = handle.record.plans["cond"].plan
    with fs.accelerate(tiny("flux").pipe, plan) as handle:
        assert torch.equal(tiny("flux").run(), expected)
    assert handle.record.failed_open == []
    assert handle.record.nfe == 4


def test_strict_raises_and_the_handle_can_still_be_let_go() -> None:
    plan = policy().compile(fs.Grid.uniform(STEPS))
    handle = fs.accelerate(tiny("flux").pipe, plan, strict=True)
    with pytest.raises(FailedOpenError, match=r"Step 0 \(cond\) is computed instead of forecast: .*another grid"):
        tiny("flux").run()
    handle.detach()
    assert torch.equal(tiny("flux").run(), reference("flux"))


def test_strict_says_nothing_where_all_is_as_planned() -> None:
    with fs.accelerate(tiny("flux").pipe, policy(), strict=True) as handle:
        tiny("flux").run()
    assert handle.record.nfe == 4


@pytest.mark.parametrize("site", SITES)
def test_a_feature_that_is_not_finite_is_not_used(site: str) -> None:
    model, scheduler = randomise(TinyDenoiser(), 2), flow_scheduler()
    poisoned = 0

    def poison(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        nonlocal poisoned
        at_step_two = scheduler.step_index == 2
        poisoned += at_step_two
        return output * float("nan") if at_step_two else output

    hook = model.blocks[-1].register_forward_hook(poison)
    with torch.no_grad(), fs.accelerate(model, policy(site), scheduler=scheduler) as handle:
        with pytest.warns(fs.ForeseerWarning, match="feature of step 2 is not finite") as said:
            sample(model, scheduler)
        assert handle.record.computed == {"call 1": [0, 2, 3, 4, 5, 6, 7]}
        assert [one.step for one in handle.record.failed_open] == [3, 5, 7]
        assert handle.record.forecast == {"call 1": [1]}
        hook.remove()
        sample(model, scheduler)
    assert poisoned == 1
    assert len(said) == 1
    assert handle.record.nfe == 4


@pytest.mark.parametrize("site", SITES)
def test_with_gradients_every_step_is_computed(site: str) -> None:
    model, scheduler = randomise(TinyDenoiser(), 2).requires_grad_(True), flow_scheduler()
    expected = sample(model, scheduler)
    with fs.accelerate(model, policy(site), scheduler=scheduler) as handle:
        with pytest.warns(fs.ForeseerWarning, match=r"gradients are enabled: sample under torch.no_grad\(\)"):
            found = sample(model, scheduler)
        assert handle.record.nfe == STEPS
        with torch.no_grad():
            sample(model, scheduler)
        assert handle.record.nfe == 4
    assert torch.equal(found, expected)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_output_written_to_by_the_loop_is_not_used() -> None:
    model, scheduler = denoiser(), flow_scheduler()
    sampled: dict[str, Tensor] = {}

    def loop() -> Tensor:
        latents = torch.ones(1, 5, 4)
        scheduler.set_timesteps(STEPS)
        for step, t in enumerate(scheduler.timesteps):
            velocity = model(latents, t.expand(1))
            if step == 2:
                velocity *= 0.5
            latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
        return latents

    with torch.no_grad():
        with fs.accelerate(model, policy(), scheduler=scheduler) as handle:
            with pytest.warns(fs.ForeseerWarning, match="changed in place"):
                sampled["device"] = loop()
            assert [one.step for one in handle.record.failed_open] == [3, 5]
        with fs.accelerate(model, policy(), scheduler=scheduler, keep="host") as handle:
            sampled["host"] = loop()
            assert handle.record.failed_open == []
        with torch.inference_mode(), fs.accelerate(model, policy(), scheduler=scheduler) as handle:
            assert torch.equal(loop(), sampled["host"])
            assert handle.record.failed_open == []


def test_the_models_own_cache_enabled_later_is_not_forecast_over() -> None:
    transformer = tiny("flux").pipe.transformer
    with fs.accelerate(tiny("flux").pipe, policy()) as handle:
        transformer.enable_cache(FirstBlockCacheConfig(threshold=1e-9))
        try:
            with pytest.warns(fs.ForeseerWarning, match=r"own cache was enabled.*call disable_cache\(\)"):
                tiny("flux").run()
        finally:
            transformer.disable_cache()
        assert handle.record.nfe == STEPS
        tiny("flux").run()
        assert handle.record.nfe == 4


VISITS = {  # steps of 8 levels: the first visits of all levels, then the second visits
    "HeunDiscreteScheduler": [[0, 1, 3, 5, 7, 9, 11, 13], [2, 4, 6, 8, 10, 12, 14]],
    "PNDMScheduler": [[0, 1, 3, 4, 5, 6, 7, 8], [2]],
}


@pytest.mark.parametrize("kind", VISITS)
def test_each_visit_of_a_level_is_a_sequence_of_its_own(kind: str) -> None:
    pipe = tiny("sdxl").pipe
    ordinary = pipe.scheduler
    try:
        pipe.scheduler = getattr(diffusers, kind).from_config(ordinary.config, skip_prk_steps=True)
        expected = tiny("sdxl").run()
        with fs.accelerate(pipe, fs.Policy(fs.schedule.Uniform(interval=1), fs.forecast.Reuse())):
            assert torch.equal(tiny("sdxl").run(), expected)
        with fs.accelerate(pipe, policy()) as handle:
            tiny("sdxl").run()
            first, second = VISITS[kind]
            record = handle.record
            assert record.computed == {"call 1": first[::2], "call 2": second[::2]}
            assert record.forecast == {"call 1": first[1::2], **({"call 2": second[1::2]} if second[1:] else {})}
            assert (record.failed_open, record.begun_late) == ([], [])
            assert record.calls == record.steps == len(first) + len(second)
    finally:
        pipe.scheduler = ordinary


def test_a_call_outside_any_run_is_computed() -> None:
    transformer = tiny("flux").pipe.transformer
    expected = denoise_flux(transformer, 500.0)
    with fs.accelerate(tiny("flux").pipe, policy()) as handle:
        tiny("flux").run()
        with pytest.warns(fs.ForeseerWarning, match="past its last step"):
            found = denoise_flux(transformer, 500.0)
        assert handle.record.failed_open[-1].step == -1
    assert torch.equal(found, expected)


def test_a_scheduler_without_timesteps_is_computed() -> None:
    x, t, scheduler = torch.ones(1, 5, 4), torch.ones(1), SimpleNamespace(timesteps=None)
    with torch.no_grad(), fs.accelerate(denoiser(), policy(), scheduler=scheduler) as handle:
        with pytest.warns(fs.ForeseerWarning, match="set_timesteps"):
            found = denoiser()(x, t)
        assert torch.equal(denoiser()(x, t), found)
        assert handle.record.failed_open[-1].step == -1
    assert torch.equal(found, denoiser()(x, t))


def test_a_first_call_with_an_unknown_timestep_costs_that_step_only() -> None:
    model, scheduler = denoiser(), diffusers.DDIMScheduler()
    scheduler.set_timesteps(STEPS)
    with torch.no_grad(), fs.accelerate(model, policy(), scheduler=scheduler) as handle:
        with pytest.warns(fs.ForeseerWarning, match="the timestep 3.5 is not exactly one of its timesteps"):
            model(torch.ones(1, 5, 4), torch.tensor([3.5]))
        for t in scheduler.timesteps[1:]:
            model(torch.ones(1, 5, 4), t.expand(1))
    assert [one.step for one in handle.record.failed_open] == [-1]
    assert handle.record.computed["call 1"] == [1, 3, 5, 7]
    assert handle.record.forecast["call 1"] == [2, 4, 6]


def test_a_container_that_cannot_be_rebuilt_is_computed() -> None:
    class Odd(TinyDenoiser):
        def forward(self, x: Tensor, timestep: Tensor) -> Any:
            return SimpleNamespace(velocity=super().forward(x, timestep))

    model, scheduler = randomise(Odd(), 2), flow_scheduler()
    scheduler.set_timesteps(4)

    def call(step: int) -> Any:
        scheduler.set_begin_index(step)
        return model(torch.ones(1, 5, 4), scheduler.timesteps[step])

    with torch.no_grad(), fs.accelerate(model, policy(), scheduler=scheduler) as handle:
        with pytest.warns(fs.ForeseerWarning, match="returned a SimpleNamespace"):
            call(0)
        assert [call(step).velocity.shape for step in range(1, 4)] == [(1, 5, 4)] * 3
    assert handle.record.nfe == 4


def test_it_is_said_once_a_handle() -> None:
    plan = policy().compile(fs.Grid.uniform(STEPS))
    for _ in range(2):
        with fs.accelerate(tiny("flux").pipe, plan), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            tiny("flux").run()
            tiny("flux").run()
        assert len([one for one in said if one.category is fs.ForeseerWarning]) == 1
        assert "Said once; handle.record.failed_open lists all." in str(said[-1].message)
    assert EVERY_SECOND.computed_steps(STEPS) == plan.computed_steps


def test_under_transforms_every_step_of_a_denoiser_is_computed() -> None:
    network, scheduler = TinyDenoiser(), diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    x = torch.ones(1, 5, 4)
    with torch.no_grad(), fs.accelerate(network, policy(), scheduler=scheduler) as handle:
        with pytest.warns(fs.ForeseerWarning, match=r"torch.func transform, forward-mode"):
            for t in scheduler.timesteps:
                _, tangent = torch.func.jvp(lambda z, t=t: network(z, t.expand(1)), (x,), (torch.ones_like(x),))
                assert tangent.any()
        assert handle.record is not None
        assert handle.record.nfe == STEPS


class Changing(nn.Module):
    """A network whose processor begins to store at the step at which the output gets another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.layer.processor = SimpleNamespace(stored=[])  # pyright: ignore[reportAttributeAccessIssue]
        self.calls = 0

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.calls += 1
        output = torch.tanh(self.layer(x.float()) + timestep.reshape(-1, 1, 1) / 1000)
        if self.calls != 2:
            return output
        self.layer.processor.stored.append(output)
        return output.double()


def test_storing_begins_where_a_plan_that_cannot_begin_late_would_begin_again() -> None:
    scheduler = flow_scheduler()
    scheduler.set_timesteps(STEPS)
    plan = policy().compile(fs.Grid.from_scheduler(scheduler))
    network = randomise(Changing(), 3)
    with torch.no_grad(), fs.accelerate(network, plan, scheduler=scheduler) as handle:
        with pytest.warns(fs.ForeseerWarning, match="keeps what it computes"):
            sample(network, scheduler)
        assert handle.record.calls == STEPS
