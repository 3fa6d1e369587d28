"""A policy that saves nothing says so, and why."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer.attach.interception import is_hooked
from tests.support.attaching import TinyDenoiser, denoiser, flow_scheduler, policy, sample
from tests.support.pipelines import build, randomise

LONG_WARMUP = fs.schedule.Uniform(interval=4, warmup=20)


@pytest.mark.cell("visible", "a schedule that computes every step of a short run: a warning", "works")
def test_a_policy_that_computes_every_step_says_so() -> None:
    scheduler = flow_scheduler()
    with torch.no_grad():
        handle = fs.accelerate(denoiser(), policy(rule=LONG_WARMUP), scheduler=scheduler)
        sample(denoiser(), scheduler)
        with pytest.warns(fs.ForeseerWarning, match="saved nothing: all 8 steps of this run were computed"):
            sample(denoiser(), scheduler)
        handle.detach()
        handle = fs.accelerate(denoiser(), policy(rule=LONG_WARMUP), scheduler=scheduler)
        sample(denoiser(), scheduler)
        with pytest.warns(fs.ForeseerWarning, match="saved nothing"):
            handle.detach()
    assert not handle.attached


@pytest.mark.cell("visible", "a gate that forecasts no step: a warning", "works")
@pytest.mark.parametrize("gate", [fs.gate.FirstBlock(threshold=1e-12), fs.gate.TeaCache(threshold=1e-12)], ids=str)
def test_a_gate_that_saves_nothing_says_so(gate: fs.gate.Gate) -> None:
    tiny = build("flux")
    handle = fs.accelerate(tiny.pipe, fs.GatedPolicy(gate, fs.forecast.Newton(order=1)))
    tiny.run()
    assert handle.record.forecast == {}
    with pytest.warns(fs.ForeseerWarning, match="saved nothing: all 8 steps of this run were computed"):
        handle.detach()


@pytest.mark.cell("visible", "a denoiser replaced in the pipeline while attached: a warning", "works")
@pytest.mark.parametrize("how", ["read", "detach"])
def test_a_replaced_denoiser_is_said(how: str) -> None:
    tiny = build("flux")
    handle = fs.accelerate(tiny.pipe, policy())
    tiny.run()
    record, original = handle.record, tiny.pipe.transformer
    tiny.pipe.transformer = copy.deepcopy(original)
    plain = tiny.run()
    with pytest.warns(fs.ForeseerWarning, match="transformer was replaced after attaching"):
        assert how == "detach" or handle.record is record
        handle.detach()
    assert not is_hooked(original)
    assert torch.equal(tiny.run(), plain)


@pytest.mark.cell("visible", "branches that restart at every step: a warning", "works")
def test_branches_that_never_go_on_say_so() -> None:
    class Ragged(TinyDenoiser):
        def forward(self, x: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
            return super().forward(x, timestep) + words.mean()

    model, scheduler = randomise(Ragged(), 5), flow_scheduler()
    handle = fs.accelerate(model, policy(), scheduler=scheduler)
    scheduler.set_timesteps(6)
    x = torch.ones(1, 5, 4)
    for step, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            x = scheduler.step(model(x, t.expand(1), torch.ones(1, step + 1)), t, x, return_dict=False)[0]
    with pytest.warns(fs.ForeseerWarning, match=r"no branch continued from one step to the next .*each of 6 steps"):
        handle.detach()
    assert handle.record.forecast == {}


@pytest.mark.cell("visible", "a policy that asks for every step: no warning", "works")
@pytest.mark.parametrize("rule", [fs.schedule.Explicit(range(8)), fs.schedule.Uniform(interval=1)])
def test_what_was_asked_for_is_not_warned_of(rule: Any) -> None:
    scheduler = flow_scheduler()
    with torch.no_grad(), fs.accelerate(denoiser(), policy(rule=rule), scheduler=scheduler) as handle:
        sample(denoiser(), scheduler)
    assert handle.record.nfe == 8


@pytest.mark.cell("visible", "a run aborted before its first forecast: no warning", "works")
def test_a_broken_run_is_not_warned_of() -> None:
    scheduler = flow_scheduler()
    with torch.no_grad(), fs.accelerate(denoiser(), policy(), scheduler=scheduler) as handle:
        scheduler.set_timesteps(8)
        denoiser()(torch.ones(1, 5, 4), scheduler.timesteps[0].expand(1))
    assert handle.record.nfe == 1
