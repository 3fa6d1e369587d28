"""Which step a call belongs to, for every kind of scheduler."""

from __future__ import annotations

from typing import Any

import diffusers as d
import pytest
import torch
from torch import nn

from foreseer.attach.clock import StepClock, UnknownStepError

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}

WITH_INDEX = {
    "flow": lambda: d.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow, rising": lambda: d.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    "euler": d.EulerDiscreteScheduler,
    "euler ancestral": d.EulerAncestralDiscreteScheduler,
    "dpm-solver": d.DPMSolverMultistepScheduler,
    "dpm-solver, flow": lambda: d.DPMSolverMultistepScheduler(**FLOW),
    "unipc, flow": lambda: d.UniPCMultistepScheduler(**FLOW),
    "heun": d.HeunDiscreteScheduler,
    "lcm": d.LCMScheduler,
}
MATCHED = {
    "ddim": d.DDIMScheduler,
    "ddim, trailing": lambda: d.DDIMScheduler(timestep_spacing="trailing"),
    "ddpm": d.DDPMScheduler,
    "cogvideox ddim": d.CogVideoXDDIMScheduler,
}
SCALES = {"t": lambda t: t, "t / 1000": lambda t: t / 1000, "1 - t / 1000": lambda t: 1 - t / 1000}


class Named(nn.Module):
    def forward(self, hidden: Any, timestep: Any = None, other: Any = None) -> Any:
        return hidden


class Short(nn.Module):
    def forward(self, x: Any, cond: Any, t: Any) -> Any:
        return x


class Timeless(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


def clock_on(scheduler: Any, module: nn.Module | None = None, steps: int = 10) -> StepClock:
    if steps:
        scheduler.set_timesteps(steps)
    clock = StepClock(module or Named())
    assert clock.new_run(scheduler) is True
    assert clock.new_run(scheduler) is False
    return clock


@pytest.mark.parametrize("name", {**WITH_INDEX, **MATCHED})
def test_every_call_of_a_run_is_told_its_step(name: str) -> None:
    scheduler = {**WITH_INDEX, **MATCHED}[name]()
    clock = clock_on(scheduler)
    x = torch.ones(1, 4)
    found = []
    for t in scheduler.timesteps:
        found += [clock.step(scheduler, (x, t.expand(2)), {}) for _ in range(2)]
        x = scheduler.step(0.1 * x, t, x).prev_sample if name != "cogvideox ddim" else x
    assert found == [step for step in range(len(scheduler.timesteps)) for _ in range(2)]


@pytest.mark.parametrize("name", {**WITH_INDEX, **MATCHED})
def test_a_new_set_of_timesteps_is_a_new_run(name: str) -> None:
    scheduler = {**WITH_INDEX, **MATCHED}[name]()
    clock = clock_on(scheduler)
    scheduler.set_timesteps(10)
    assert clock.new_run(scheduler) is True
    assert clock.new_run(scheduler) is False


def test_the_begin_index_counts_until_the_first_step() -> None:
    scheduler = d.FlowMatchEulerDiscreteScheduler()
    clock = clock_on(scheduler)
    scheduler.set_begin_index(4)
    x = torch.ones(1, 4)
    found = []
    for t in scheduler.timesteps[4:]:
        found.append(clock.step(scheduler, (x, torch.tensor(-5.0)), {}))
        x = scheduler.step(x, t, x).prev_sample
    assert found == list(range(4, 10))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["flow", *MATCHED])
def test_a_timestep_is_matched_on_any_scale(name: str, scale: str) -> None:
    scheduler = {**WITH_INDEX, **MATCHED}[name]()
    clock = clock_on(scheduler)
    values = [SCALES[scale](float(t)) for t in scheduler.timesteps]
    assert [clock.step(scheduler, (), {"timestep": value}) for value in values] == list(range(10))


def test_a_rounded_timestep_is_matched_or_refused_but_never_mistaken() -> None:
    scheduler = d.DDIMScheduler()
    clock = clock_on(scheduler, steps=100)
    found = {}
    for step, t in enumerate(scheduler.timesteps):
        rounded = (t / 1000).to(torch.bfloat16)
        try:
            found[step] = clock.step(scheduler, (), {"timestep": rounded})
        except UnknownStepError:
            continue
    assert all(step == told for step, told in found.items())
    assert len(found) >= 90


def test_rounding_that_makes_duplicates_is_refused() -> None:
    scheduler = d.DDIMScheduler()
    clock = clock_on(scheduler, steps=1000)
    told = 0
    for step, t in enumerate(scheduler.timesteps):
        try:
            assert clock.step(scheduler, (), {"timestep": t.to(torch.bfloat16)}) == step
            told += 1
        except UnknownStepError:
            continue
    assert 0 < told < 1000


@pytest.mark.parametrize("value", [37.0, 0.0371, -3.0, float("nan")])
def test_an_unknown_timestep_is_refused(value: float) -> None:
    scheduler = d.DDIMScheduler()
    clock = clock_on(scheduler)
    with pytest.raises(UnknownStepError, match="not one of the scheduler's 10"):
        clock.step(scheduler, (), {"timestep": torch.tensor([value])})


@pytest.mark.parametrize(
    ("module", "args", "kwargs"),
    [
        (Named(), (None, torch.tensor([901])), {}),
        (Named(), (None, 901), {}),
        (Named(), (None,), {"timestep": 901.0}),
        (Short(), (None, None, torch.tensor(901)), {}),
        (Short(), (None, None), {"t": torch.tensor([901, 901])}),
    ],
)
def test_the_timestep_is_found_among_the_arguments(module: nn.Module, args: Any, kwargs: Any) -> None:
    scheduler = d.DDIMScheduler(steps_offset=1)
    clock = clock_on(scheduler, module)
    assert clock.step(scheduler, args, kwargs) == 0


@pytest.mark.parametrize("args", [(torch.ones(1),), ()])
def test_no_timestep_is_refused(args: Any) -> None:
    scheduler = d.DDIMScheduler()
    with pytest.raises(UnknownStepError, match="was given no timestep"):
        clock_on(scheduler, Timeless()).step(scheduler, args, {})


def test_a_call_after_the_last_step_is_refused() -> None:
    scheduler = d.FlowMatchEulerDiscreteScheduler()
    clock = clock_on(scheduler, steps=2)
    x = torch.ones(1, 4)
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x).prev_sample
    with pytest.raises(UnknownStepError, match="past its last step"):
        clock.step(scheduler, (x, torch.tensor(0.0)), {})


def test_a_scheduler_without_timesteps_is_refused() -> None:
    clock = StepClock(Named())
    clock.new_run(None)
    with pytest.raises(UnknownStepError, match="set_timesteps"):
        clock.step(None, (), {})


@pytest.mark.parametrize("scheduler", [d.HeunDiscreteScheduler(), d.PNDMScheduler()])
def test_a_scheduler_that_visits_a_level_twice_has_no_grid(scheduler: Any) -> None:
    clock = clock_on(scheduler)
    with pytest.raises(UnknownStepError, match="strictly decrease"):
        clock.grid(scheduler)


class OfRatio(nn.Module):
    def forward(self, sample: Any, timestep_ratio: Any) -> Any:
        return sample


@pytest.mark.skipif(not hasattr(d, "HeliosScheduler"), reason="a diffusers from before Helios")
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_timesteps_cut_off_to_whole_ones_are_told_apart(stage: int) -> None:
    scheduler = d.HeliosScheduler()
    scheduler.set_timesteps(20, stage)
    clock = clock_on(scheduler, steps=0)
    whole = scheduler.timesteps.to(torch.int64)
    assert not torch.equal(whole.double(), scheduler.timesteps.double())
    assert [clock.step(scheduler, (torch.ones(1), t[None]), {}) for t in whole] == list(range(20))
    assert clock.confirm([(step, t) for step, t in enumerate(whole)]) is None
    assert clock.confirm([(3, whole[5])]) is not None
    with pytest.raises(UnknownStepError):
        clock.step(scheduler, (torch.ones(1), whole[3] - 2), {})


def test_a_ratio_is_a_timestep() -> None:
    scheduler = d.DDPMWuerstchenScheduler()
    clock = clock_on(scheduler, OfRatio())
    found = [clock.step(scheduler, (), {"sample": None, "timestep_ratio": t[None]}) for t in scheduler.timesteps[:-1]]
    assert found == list(range(10))


def test_a_scale_met_by_chance_is_not_taken_for_the_networks_own() -> None:
    scheduler = d.SCMScheduler()
    scheduler.set_timesteps(8, intermediate_timesteps=None)
    clock = clock_on(scheduler, steps=0)
    angles = scheduler.timesteps[:-1]
    given = torch.sin(angles) / (torch.cos(angles) + torch.sin(angles))
    assert abs(given[-1] - angles[-1]) < 0.25 * (angles[0] - angles[1])
    for _ in range(2):
        assert [clock.confirm([call]) for call in enumerate(given)] == [None] * 8
