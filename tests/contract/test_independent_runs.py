"""A run depends on nothing that earlier runs of the same handle left behind.

The place of a site inside the network is the exception: it is found on the handle's first call, and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer import gate
from tests.support import networks as nets
from tests.support.attaching import TinyDenoiser, flow_scheduler, sample
from tests.support.parts import TOKENS, WIDTH, embeds, randomise
from tests.support.pipelines import build

STEPS = 6
LINE = fs.forecast.Newton(order=1)
POLICIES: dict[str, Callable[[], fs.Policy]] = {
    "schedule": lambda: fs.Policy(fs.schedule.Uniform(interval=3, warmup=1), LINE),
    "teacache": lambda: gate.GatedPolicy(gate.TeaCache(threshold=0.9), LINE, "last_block"),
    "first-block": lambda: gate.GatedPolicy(gate.FirstBlock(threshold=1e9), LINE, "residual"),
    "step-control": lambda: gate.GatedPolicy(gate.StepControl(tolerance=0.5, order=1, warmup=2), LINE),
}
SCHEDULERS = {"euler": nets.flow, "unipc": nets.unipc, "heun": diffusers.FlowMatchHeunDiscreteScheduler}


def own_loop(pipe: Any) -> Tensor:
    """A loop with guidance at some steps, which rebuilds an argument that pipelines keep."""
    prompts = {name: (embeds(1, TOKENS, WIDTH, seed=s), embeds(1, WIDTH, seed=s)) for s, name in enumerate("cu")}
    x, scheduler = embeds(1, 4, 16, seed=3), pipe.scheduler
    ids = torch.zeros(TOKENS, 3), torch.zeros(4, 3)
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for index, t in enumerate(scheduler.timesteps):
            outputs = []
            for name in "cu" if index < len(scheduler.timesteps) // 2 else "c":
                words, pool = prompts[name]
                arguments = {
                    "hidden_states": x,
                    "timestep": t.expand(1) / 1000,
                    "encoder_hidden_states": words,
                    "pooled_projections": pool.clone(),
                    "txt_ids": ids[0],
                    "img_ids": ids[1],
                }
                with pipe.transformer.cache_context({"c": "cond", "u": "uncond"}[name]):
                    outputs += pipe.transformer(**arguments, return_dict=False)
            x = scheduler.step(2 * outputs[0] - outputs[-1], t, x, return_dict=False)[0]
    return x


def runs(tiny: Any) -> dict[str, Callable[[], Tensor]]:
    """The pipeline's runs and a loop's, by name."""

    def run(scheduler: str, loop: bool) -> Tensor:
        tiny.pipe.scheduler = SCHEDULERS[scheduler]()
        return own_loop(tiny.pipe) if loop else tiny.run(STEPS, size=16)

    choices = {"pipeline euler": ("euler", False), "pipeline unipc": ("unipc", False), "loop heun": ("heun", True)}
    return {name: partial(run, *choice) for name, choice in choices.items()}


@pytest.mark.filterwarnings("ignore::foreseer.ForeseerWarning")
@pytest.mark.parametrize("name", POLICIES)
def test_a_run_after_any_other_is_that_of_a_fresh_handle(name: str) -> None:
    tiny = build("flux")
    each = runs(tiny)

    def outcome(handle: fs.Handle, run: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Any]]:
        latents = run()
        assert handle.record is not None
        return latents, {**handle.record.to_dict(), "forecast_seconds": 0.0, "late": handle.record.begun_late}

    fresh = {}
    for kind, run in each.items():
        with fs.accelerate(tiny.pipe, POLICIES[name]()) as handle:
            fresh[kind] = outcome(handle, run)
    assert any(record["forecast"] for _, record in fresh.values())
    first, second, third = each
    with fs.accelerate(tiny.pipe, POLICIES[name]()) as handle:  # every ordered pair of runs
        for kind in (first, first, second, second, third, third, first, third, second, first):
            latents, record = outcome(handle, each[kind])
            assert record == fresh[kind][1], kind
            assert torch.equal(latents, fresh[kind][0]), kind


class WithState(TinyDenoiser):
    """A network that takes an object, which could keep state."""

    def forward(self, x: Tensor, timestep: Tensor, cache: Any = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x, timestep)


class Cache:
    """Such an object."""


@pytest.mark.filterwarnings("ignore::foreseer.ForeseerWarning")
@pytest.mark.parametrize("site", ["last_block", "change(kept=1)", None])
def test_a_site_that_one_runs_arguments_rule_out_serves_the_next(site: str | None) -> None:
    model, scheduler = randomise(WithState(), 5), flow_scheduler()
    with torch.no_grad():
        with fs.accelerate(model, "taylorseer", nfe=3, site=site, scheduler=scheduler) as handle:
            expected = sample(model, scheduler)
            features = handle.record.features
        with fs.accelerate(model, "taylorseer", nfe=3, site=site, scheduler=scheduler) as handle:
            sample(partial(model, cache=Cache()), scheduler)  # pyright: ignore[reportArgumentType]
            assert handle.record.nfe == (3 if site is None else 8)  # by name, the output is forecast instead
            assert torch.equal(sample(model, scheduler), expected)
            assert handle.record.nfe == 3
            assert handle.record.features == features


def test_blocks_that_ran_for_a_gate_are_not_reused_after_its_call() -> None:
    model, scheduler = randomise(TinyDenoiser(), 5), flow_scheduler()
    calls: list[tuple[Tensor, Tensor]] = []
    hook = model.register_forward_pre_hook(lambda _, args: calls.append(args))  # runs for measurements too
    rarely = gate.GatedPolicy(gate.FirstBlock(threshold=1e9), LINE)
    with torch.no_grad(), fs.accelerate(model, rarely, scheduler=scheduler) as handle:
        sample(model, scheduler)
        assert handle.record.forecast_steps[-1] == 7
        hook.remove()
        model.blocks[0].weight *= 2  # pyright: ignore
        with pytest.warns(fs.ForeseerWarning, match="past its last step"):
            changed = model(*calls[-1])
        handle.detach_silently()
        assert torch.equal(changed, model(*calls[-1]))
