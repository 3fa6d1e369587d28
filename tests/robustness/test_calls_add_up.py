"""Computed and forecast calls add up to all calls of the sampler, whatever it does."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import foreseer as fs
from foreseer.attach.denoiser_hook import DenoiserHook
from foreseer.errors import AttachError, FailedOpenError
from tests.support.attaching import TinyDenoiser, flow_scheduler, policy
from tests.support.pipelines import build, randomise

STEPS = 8


@contextmanager
def counted(module: nn.Module):
    """Count the calls that reach the network itself."""
    passes = []
    hook = module.register_forward_hook(lambda *_: passes.append(1))
    try:
        yield passes
    finally:
        hook.remove()


def counts(handle: fs.Handle, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calls that the sampler makes."""
    received: list[int] = []
    ordinary = DenoiserHook.call

    def count(self: DenoiserHook, *args: Any, **kwargs: Any) -> Any:
        received.append(1)
        return ordinary(self, *args, **kwargs)

    monkeypatch.setattr(DenoiserHook, "call", count)
    return received


def model() -> TinyDenoiser:
    return randomise(TinyDenoiser(), 5)


@pytest.mark.cell("runs", "rising sigmas without invert_sigmas in the scheduler's configuration", "fails open")
def test_rising_sigmas_are_not_taken_for_inverted_ones() -> None:
    network, scheduler = model(), flow_scheduler()
    with (
        torch.no_grad(),
        fs.accelerate(network, policy(), scheduler=scheduler) as handle,
        counted(network) as passes,
        pytest.warns(fs.ForeseerWarning, match="strictly decrease"),
    ):
        x = torch.ones(1, 5, 4)
        scheduler.set_timesteps(sigmas=[0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t.expand(1)), t, x).prev_sample
    assert handle.record.forecast == {}
    assert len(passes) == handle.record.forward_passes == 6


@pytest.mark.cell("runs", "an inversion loop: rising times on a scheduler with falling levels", "fails open")
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_an_inversion_loop_is_computed(scale: float) -> None:
    network, scheduler = model(), flow_scheduler()
    with (
        torch.no_grad(),
        warnings.catch_warnings(),
        fs.accelerate(network, policy(), scheduler=scheduler) as handle,
        counted(network) as passes,
    ):
        warnings.simplefilter("ignore")
        scheduler.set_timesteps(6)
        for t in reversed(scheduler.timesteps):
            network(torch.ones(1, 5, 4), (t / scale).expand(1))
        record = handle.record
    assert record.forecast == {}
    assert len(passes) == record.forward_passes == record.nfe == 6
    assert len(record.failed_open) == 5


@pytest.mark.cell("runs", "the scheduler's state swapped per view (panorama)", "works")
def test_views_with_copies_of_the_schedulers_state() -> None:
    network, scheduler = model(), diffusers.EulerDiscreteScheduler()
    with (
        torch.no_grad(),
        fs.accelerate(network, policy(), scheduler=scheduler, strict=True) as handle,
        counted(network) as passes,
    ):
        scheduler.set_timesteps(STEPS)
        views = [torch.full((1, 5, 4), float(number)) for number in range(1, 4)]
        states = [copy.deepcopy(scheduler.__dict__) for _ in views]
        for t in scheduler.timesteps:
            for number, view in enumerate(views):
                scheduler.__dict__.update(states[number])
                views[number] = scheduler.step(network(view, t.expand(1)), t, view).prev_sample
                states[number] = copy.deepcopy(scheduler.__dict__)
    record = handle.record
    assert record.nfe == STEPS // 2
    assert record.calls == 3 * STEPS
    assert len(passes) == record.forward_passes == 3 * STEPS // 2


@pytest.mark.cell("runs", "a pipeline made from another's parts, which is then freed", "works")
def test_a_pipeline_made_from_another() -> None:
    first = build("stable_diffusion")
    handle = fs.accelerate(first.pipe, policy())
    unet = first.pipe.unet
    second = copy.copy(first)
    second.pipe = type(first.pipe)(**first.pipe.components, requires_safety_checker=False)
    del first
    with counted(unet) as passes:
        second.run()
    assert handle.record.nfe == STEPS // 2
    assert handle.record.forward_passes == len(passes)
    assert handle.record.failed_open == []
    handle.detach()


@pytest.mark.cell("concurrency", "a second pipeline with its own scheduler, the first's run broken off", "works")
def test_calls_of_a_second_pipeline_are_counted() -> None:
    network, schedulers = model(), (flow_scheduler(), flow_scheduler())
    with (
        torch.no_grad(),
        warnings.catch_warnings(),
        fs.accelerate(network, policy(), scheduler=schedulers[0]) as handle,
        counted(network) as passes,
    ):
        warnings.simplefilter("ignore")
        schedulers[0].set_timesteps(STEPS)
        x = torch.ones(1, 5, 4)
        for t in schedulers[0].timesteps[:3]:
            x = schedulers[0].step(network(x, t.expand(1)), t, x).prev_sample
        done = len(passes)
        schedulers[1].set_timesteps(12)
        for t in schedulers[1].timesteps:
            x = schedulers[1].step(network(x, t.expand(1)), t, x).prev_sample
        assert len(passes) - done == 12
        record = handle.record
        assert record.forward_passes == len(passes)
        assert record.nfe == done + 12


class Changing(nn.Module):
    """A network whose first call returns more tokens than the later ones, as with a key-value cache."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x: Tensor, timestep: Tensor, indices: Tensor | None = None) -> Tensor:
        self.calls += 1
        output = torch.tanh(self.layer(x) + timestep.reshape(-1, 1, 1) / 1000)
        return torch.cat([output, output], 1) if self.calls == 1 else output


@pytest.mark.cell("runs", "a first output of another shape than the later ones", "works")
def test_a_first_output_of_another_shape_is_dropped() -> None:
    network, scheduler = randomise(Changing(), 3), flow_scheduler()
    rule = fs.Policy(fs.schedule.Explicit((0, 1, 2, 5), of=STEPS), fs.forecast.Newton(order=1))
    with torch.no_grad(), fs.accelerate(network, rule, scheduler=scheduler) as handle:
        scheduler.set_timesteps(STEPS)
        x = torch.ones(1, 5, 4)
        for t in scheduler.timesteps:
            velocity = network(x, t.expand(1))[:, -5:]
            x = scheduler.step(velocity, t, x).prev_sample
    assert handle.record.failed_open == [] or all("5 steps" in f.reason for f in handle.record.failed_open)
    assert (1, "call 1") in handle.record.begun_late
    assert handle.record.calls == STEPS


class Keeping(TinyDenoiser):
    """A network that keeps the prompt's keys at its first call, and may return them once."""

    def forward(self, x: Tensor, timestep: Tensor, prompt: Tensor, mode: str, keys: Any = None) -> Any:
        output = super().forward(x, timestep) + prompt.mean()
        return (output, SimpleNamespace(keys=prompt)) if keys is None and mode == "return" else (output,)


def drawn_keeping(network: nn.Module, scheduler: Any, first: str) -> Tensor:
    prompt, x = torch.ones(1, 4), torch.ones(1, 5, 4)
    scheduler.set_timesteps(STEPS)
    for step, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, t.expand(1), prompt=prompt, mode=first if step == 0 else "use")[0], t, x)[0]
    return x


@pytest.mark.cell("runs", "a network that keeps the prompt's keys and values from its first call", "works")
def test_a_mode_that_changes_after_the_first_call_is_no_other_prompt() -> None:
    network, scheduler = randomise(Keeping(), 5), flow_scheduler()
    with torch.no_grad(), fs.accelerate(network, policy(), scheduler=scheduler, strict=True) as handle:
        for _ in range(2):
            drawn_keeping(network, scheduler, "keep")
            assert handle.record.forecast == {"call 1": [1, 3, 5, 7]}
            assert handle.record.begun_late == []


@pytest.mark.cell("runs", "a network that returns its keys and values from its first call", "fails open")
@pytest.mark.parametrize("site", ["output", "last_block", "modules", "residual"])
def test_an_output_that_cannot_be_rebuilt_is_computed(site: str) -> None:
    network, scheduler = randomise(Keeping(), 5), flow_scheduler()
    with (
        torch.no_grad(),
        fs.accelerate(network, policy(site), scheduler=scheduler) as handle,
        pytest.warns(fs.ForeseerWarning),
    ):
        drawn_keeping(network, scheduler, "return")
    assert handle.record.failed_open[0].step == 0
    assert handle.record.calls == STEPS


@pytest.mark.cell("runs", "arguments that are new tensors at every step", "works")
def test_tensors_per_step_are_no_other_generation() -> None:
    network, scheduler = randomise(Changing(), 3), flow_scheduler()
    network.calls = 1
    indices = [torch.tensor([step]) for step in range(STEPS)]  # all alive
    with torch.no_grad(), fs.accelerate(network, policy(), scheduler=scheduler, strict=True) as handle:
        for _ in range(2):
            scheduler.set_timesteps(STEPS)
            x = torch.ones(1, 5, 4)
            for step, t in enumerate(scheduler.timesteps):
                x = scheduler.step(network(x, t.expand(1), indices=indices[step]), t, x).prev_sample
            assert handle.record.computed == {"call 1": [0, 2, 4, 6]}


class OnDevice(Tensor):
    """A tensor that says it is on a device, and refuses to be read."""

    @property
    def is_cpu(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__bool__, Tensor.__int__, Tensor.numpy):
            raise AssertionError(f"{func.__name__} waits for the device")
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.cell("numerics", "timesteps on a device: not read", "works")
def test_timesteps_on_a_device_are_not_read() -> None:
    class OfDevice(TinyDenoiser):
        def forward(self, x: Tensor, timestep: Tensor) -> Any:
            return super().forward(x, timestep.as_subclass(Tensor))

    network, scheduler = randomise(OfDevice(), 5), flow_scheduler()
    with torch.no_grad(), fs.accelerate(network, policy(), scheduler=scheduler, strict=True) as handle:
        scheduler.set_timesteps(STEPS)
        scheduler.set_begin_index(0)
        x = torch.ones(1, 5, 4)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, (t / 1000).expand(1).as_subclass(OnDevice)), t, x).prev_sample
    assert handle.record.forecast == {"call 1": [1, 3, 5, 7]}


@pytest.mark.cell("numerics", "no wait for the GPU in computed or skipped steps", "works")
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_the_gpu() -> None:
    network, scheduler = model().cuda(), flow_scheduler()
    with torch.no_grad(), fs.accelerate(network, policy(), scheduler=scheduler, strict=True) as handle:
        for _ in range(2):
            scheduler.set_timesteps(STEPS, device="cuda")
            scheduler.set_begin_index(0)
            x = torch.ones(1, 5, 4, device="cuda")
            for t in scheduler.timesteps:
                torch.cuda.set_sync_debug_mode("error")
                velocity = network(x, t.expand(1))
                torch.cuda.set_sync_debug_mode("default")
                x = scheduler.step(velocity, t, x).prev_sample
            assert handle.record.forecast == {"call 1": [1, 3, 5, 7]}


@pytest.mark.cell("visible", "an object that nothing can be attached to", "refused")
@pytest.mark.parametrize("thing", [SimpleNamespace(), SimpleNamespace(transformer=None, scheduler=None), 3, "text"])
def test_what_cannot_be_attached_to_is_refused_in_our_words(thing: Any) -> None:
    with pytest.raises(AttachError):
        fs.accelerate(thing, policy())


@pytest.mark.cell("hosts", "`torch.export` of an attached model", "refused")
def test_an_attached_model_is_not_exported() -> None:
    network, scheduler = model(), flow_scheduler()
    scheduler.set_timesteps(STEPS)
    inputs = (torch.ones(1, 5, 4), torch.ones(1))
    with fs.accelerate(network, policy(), scheduler=scheduler), pytest.raises(AttachError, match="detach first"):
        torch.export.export(network, inputs, strict=False)
    torch.export.export(network, inputs, strict=False)


@pytest.mark.cell("hosts", "`torch.jit.trace` and `make_fx` of an attached model", "refused")
@pytest.mark.parametrize("tracer", [torch.jit.trace, lambda network, inputs: make_fx(network)(*inputs)])
def test_a_forecast_is_not_traced(tracer: Any) -> None:
    network, scheduler = model(), flow_scheduler()
    scheduler.set_timesteps(STEPS)
    with torch.no_grad(), fs.accelerate(network, policy(), scheduler=scheduler):
        x = torch.ones(1, 5, 4)
        t = scheduler.timesteps[0]
        scheduler.step(network(x, t.expand(1)), t, x)
        with pytest.raises(AttachError, match="detach first"):
            tracer(network, (x, scheduler.timesteps[1].expand(1)))


@pytest.mark.cell("numerics", "tensors without numbers: the meta device, fake tensors", "fails open")
@pytest.mark.parametrize("mode", [FakeTensorMode, lambda: torch.device("meta")])
def test_without_numbers_every_step_is_computed(mode: Any) -> None:
    with mode():
        network, scheduler = model(), diffusers.DDIMScheduler()
        with torch.no_grad(), fs.accelerate(network, policy(), scheduler=scheduler) as handle:
            scheduler.set_timesteps(4)
            with pytest.warns(fs.ForeseerWarning):
                for _ in range(4):
                    network(torch.ones(1, 5, 4), torch.ones(1))
    assert handle.record.forward_passes == handle.record.calls == 4


@pytest.mark.cell("visible", "a call of another run, with strict=True", "refused")
def test_strict_raises_on_calls_of_another_run() -> None:
    network, scheduler = model(), flow_scheduler()
    with torch.no_grad(), fs.accelerate(network, policy(), scheduler=scheduler, strict=True):
        scheduler.set_timesteps(4)
        network(torch.ones(1, 5, 4), scheduler.timesteps[0].expand(1))
        with pytest.raises(FailedOpenError, match="another run"):
            network(torch.ones(1, 5, 4), torch.tensor([3.0]))
