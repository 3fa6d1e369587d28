"""Which run and which step a call belongs to, for every kind of scheduler."""

from __future__ import annotations

import copy
import inspect
import pickle
from types import SimpleNamespace
from typing import Any

import diffusers as d
import pytest
import torch
from torch import Tensor, nn

from foreseer.attach.run.scheduler_watch import SchedulerWatch
from foreseer.attach.run.step_reader import StepReader, UnknownStepError, reading_on_host

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


class Named(nn.Module):
    def forward(self, hidden: Any, timestep: Any = None, other: Any = None) -> Any:
        return hidden


class Short(nn.Module):
    def forward(self, x: Any, cond: Any, t: Any) -> Any:
        return x


class Timeless(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


def reader_on(scheduler: Any, module: nn.Module | None = None, steps: int = 10) -> StepReader:
    if steps:
        scheduler.set_timesteps(steps)
    reader = StepReader(module or Named())
    assert reader.begins_run(scheduler) is True
    assert reader.begins_run(scheduler) is False
    return reader


def step_of(reader: StepReader, scheduler: Any, args: Any = (), first: int = -1, **kwargs: Any) -> int:
    return reader.step(scheduler, reader.argument(args, kwargs), first)


@pytest.mark.parametrize("name", {**WITH_INDEX, **MATCHED})
def test_every_call_of_a_run_has_its_step(name: str) -> None:
    scheduler = {**WITH_INDEX, **MATCHED}[name]()
    reader = reader_on(scheduler)
    x = torch.ones(1, 4)
    steps = []
    for t in scheduler.timesteps:
        steps += [step_of(reader, scheduler, (x, t.expand(2)), min(0, len(steps) - 1)) for _ in range(2)]
        x = scheduler.step(0.1 * x, t, x).prev_sample if name != "cogvideox ddim" else x
    assert steps == [step for step in range(len(scheduler.timesteps)) for _ in range(2)]


@pytest.mark.parametrize("name", {**WITH_INDEX, **MATCHED})
def test_a_new_set_of_timesteps_is_a_new_run(name: str) -> None:
    scheduler = {**WITH_INDEX, **MATCHED}[name]()
    reader = reader_on(scheduler)
    scheduler.set_timesteps(10)
    assert reader.begins_run(scheduler) is True
    assert reader.begins_run(scheduler) is False


def test_the_begin_index_counts_until_the_first_step() -> None:
    scheduler = d.FlowMatchEulerDiscreteScheduler()
    reader = reader_on(scheduler)
    scheduler.set_begin_index(4)
    x = torch.ones(1, 4)
    found = []
    for t in scheduler.timesteps[4:]:
        found.append(step_of(reader, scheduler, (x, torch.tensor(-5.0))))
        x = scheduler.step(x, t, x).prev_sample
    assert found == list(range(4, 10))


def test_a_view_of_the_timesteps_is_located_without_reading_it() -> None:
    scheduler = d.DDIMScheduler()
    reader = reader_on(scheduler)
    views = [t.expand(3) for t in scheduler.timesteps] + [scheduler.timesteps[2:][1]]
    assert [reader.place_of(view) for view in views] == [*range(10), 3]
    assert reader.place_of(scheduler.timesteps[4].clone()) is None
    assert reader.place_of(torch.tensor(4.0)) is None
    assert reader.place_of(3) is None


def test_the_first_call_is_step_0_where_the_scheduler_has_not_stepped() -> None:
    scheduler = d.FlowMatchEulerDiscreteScheduler()
    reader = reader_on(scheduler)
    assert step_of(reader, scheduler, (None, torch.tensor(0.731))) == 0
    assert step_of(reader, scheduler, (None, torch.tensor(0.731)), first=0) == 0
    ddim = d.DDIMScheduler()
    with pytest.raises(UnknownStepError, match=r"0\.731 is not exactly one of its timesteps"):
        step_of(reader_on(ddim), ddim, (None, torch.tensor(0.731)))


@pytest.mark.parametrize("value", [37.0, 0.0371, -3.0, float("nan")])
def test_an_unknown_timestep_is_refused(value: float) -> None:
    scheduler = d.DDIMScheduler()
    reader = reader_on(scheduler)
    with pytest.raises(UnknownStepError, match="is not exactly one of its timesteps"):
        step_of(reader, scheduler, timestep=torch.tensor([value]))


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
    reader = reader_on(scheduler, module)
    assert step_of(reader, scheduler, args, **kwargs) == 0


@pytest.mark.parametrize("args", [(torch.ones(1),), ()])
def test_no_timestep_is_refused(args: Any) -> None:
    scheduler = d.DDIMScheduler()
    with pytest.raises(UnknownStepError, match="given no timestep"):
        step_of(reader_on(scheduler, Timeless()), scheduler, args)


def test_a_call_after_the_last_step_is_refused() -> None:
    scheduler = d.FlowMatchEulerDiscreteScheduler()
    reader = reader_on(scheduler, steps=2)
    x = torch.ones(1, 4)
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x).prev_sample
    with pytest.raises(UnknownStepError, match="past its last step"):
        step_of(reader, scheduler, (x, torch.tensor(0.0)))


def test_a_scheduler_without_timesteps_is_refused() -> None:
    reader = StepReader(Named())
    reader.begins_run(None)
    with pytest.raises(UnknownStepError, match="set_timesteps"):
        step_of(reader, None)


@pytest.mark.parametrize(
    ("scheduler", "sizes"), [(d.HeunDiscreteScheduler(), [10, 9]), (d.PNDMScheduler(skip_prk_steps=True), [10, 1])]
)
def test_levels_visited_twice_are_two_sequences(scheduler: Any, sizes: list[int]) -> None:
    levels = reader_on(scheduler).levels(scheduler)
    assert [len(grid) for grid in levels.grids] == sizes
    assert len(levels.places) == len(scheduler.timesteps)
    assert levels.done_before(len(levels.places) - 1) == tuple(
        size - (index == levels.places[-1][0]) for index, size in enumerate(sizes)
    )


@pytest.mark.parametrize("scheduler", [d.DDIMInverseScheduler(), d.FlowMatchEulerDiscreteScheduler()])
def test_rising_levels_are_refused(scheduler: Any) -> None:
    rising = [0.1, 0.4, 0.7, 1.0]
    scheduler.set_timesteps(**({"sigmas": rising} if hasattr(scheduler, "step_index") else {"num_inference_steps": 4}))
    with pytest.raises(UnknownStepError, match="strictly decrease"):
        reader_on(scheduler, steps=0).levels(scheduler)


class OfRatio(nn.Module):
    def forward(self, sample: Any, timestep_ratio: Any) -> Any:
        return sample


@pytest.mark.skipif(not hasattr(d, "HeliosScheduler"), reason="a diffusers from before Helios")
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_timesteps_cut_off_to_whole_ones_are_distinguished(stage: int) -> None:
    scheduler = d.HeliosScheduler()
    scheduler.set_timesteps(20, stage)
    reader = reader_on(scheduler, steps=0)
    whole = scheduler.timesteps.to(torch.int64)
    assert not torch.equal(whole.double(), scheduler.timesteps.double())
    scheduler = SimpleNamespace(timesteps=scheduler.timesteps, num_inference_steps=20)
    assert [step_of(reader, scheduler, (torch.ones(1), t[None])) for t in whole] == list(range(20))
    with pytest.raises(UnknownStepError):
        step_of(reader, scheduler, (torch.ones(1), whole[3] - 2))


def test_a_ratio_is_a_timestep() -> None:
    scheduler = d.DDPMWuerstchenScheduler()
    reader = reader_on(scheduler, OfRatio())
    found = [step_of(reader, scheduler, sample=None, timestep_ratio=t[None]) for t in scheduler.timesteps[:-1]]
    assert found == list(range(10))


def test_a_copy_of_the_schedulers_state_is_the_same_run() -> None:
    scheduler = d.EulerDiscreteScheduler()
    reader = reader_on(scheduler)
    run = reader.run
    for _ in range(3):  # as pipelines do that denoise several views of a picture by turns
        scheduler.__dict__.update(copy.deepcopy(scheduler.__dict__))
        assert reader.begins_run(scheduler) is False
    scheduler.set_timesteps(10)
    assert reader.begins_run(scheduler) is True
    assert reader.run != run


class Counted(Tensor):
    """A tensor that counts how often it is read."""

    reads = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Counted.reads += func in (Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.numpy)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_copied_timesteps_are_read_at_once() -> None:
    scheduler = d.EulerDiscreteScheduler()
    scheduler.set_timesteps(10)
    scheduler.timesteps = scheduler.timesteps.as_subclass(Counted)
    reader = reader_on(scheduler, steps=0)
    scheduler.timesteps = scheduler.timesteps.clone()
    Counted.reads = 0
    assert reader.begins_run(scheduler) is False
    assert Counted.reads <= 2  # this copy, and the timesteps that the run began with


def test_timesteps_put_in_by_hand_are_a_new_run() -> None:
    scheduler = d.EulerDiscreteScheduler()
    reader = reader_on(scheduler)
    scheduler.timesteps = scheduler.timesteps[2:]
    assert reader.begins_run(scheduler) is True


def test_watching_leaves_no_trace_and_copies_are_not_watched() -> None:
    scheduler = d.EulerDiscreteScheduler()
    members, signature = dict(vars(scheduler)), inspect.signature(scheduler.set_timesteps)
    watch = SchedulerWatch.of(scheduler)
    watch.join()
    watch.join()
    assert inspect.signature(scheduler.set_timesteps) == signature
    twins = copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))
    for twin in twins:
        twin.set_timesteps(3)
        assert len(twin.timesteps) == 3
    assert watch.seen.runs == 0
    scheduler.set_timesteps(4)
    assert (watch.seen.runs, len(watch.seen.timesteps)) == (1, 4)
    watch.leave(scheduler)
    assert SchedulerWatch.of(scheduler) is watch
    watch.leave(scheduler)
    assert vars(scheduler).keys() - {"num_inference_steps", "_step_index", "timesteps", "sigmas"} <= members.keys()
    assert "set_timesteps" not in vars(scheduler)


def test_only_what_lies_on_the_host_is_read() -> None:
    assert reading_on_host(torch.tensor([3.0, 5.0])) == 5.0
    assert reading_on_host(7) == 7.0
    assert reading_on_host(torch.empty(2, device="meta")) is None
    assert reading_on_host(None) is None
