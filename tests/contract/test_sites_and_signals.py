"""Contract of every site and of every gate's signal, found by walking their registries."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import foreseer as fs
from foreseer import gate
from foreseer.attach.accelerate import make_hook
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.signals.base import SIGNALS, SignalProbe
from foreseer.attach.sites.base import SiteHook
from foreseer.site import KINDS, read_site
from tests.support.attaching import policy, tiny

STEPS = 6
NETWORKS = ("flux", "sd3", "wan")  # each site and signal serves at least one of them


def state(module: nn.Module) -> set[tuple[str, str, int]]:
    """Everything that could be left behind on a network; diffusers itself leaves an empty hook registry.

    What is None counts as not there: other tests leave such attributes.
    """
    return {
        (part_name, name, len(value) if name.endswith("hooks") else id(value))
        for part_name, part in module.named_modules()
        for name, value in vars(part).items()
        if value is not None and (name != "_diffusers_hook" or value.hooks)
    }


def served(attached: fs.Policy | fs.GatedPolicy) -> list[tuple[str, fs.Handle]]:
    """Run every network under a policy, check what must hold on each, and return those that forecast."""
    forecasting = []
    for name in NETWORKS:
        pipeline, passes = tiny(name), []
        network = pipeline.pipe.transformer
        before, reference = state(network), pipeline.run(STEPS)
        count = network.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        with fs.accelerate(pipeline.pipe, attached) as handle:
            sample = pipeline.run(STEPS)
        count.remove()
        record = handle.record
        assert torch.isfinite(sample).all()
        assert all(len(record.computed[each]) + len(record.forecast.get(each, [])) == STEPS for each in record.computed)
        assert state(network) ^ before == set()
        assert torch.equal(pipeline.run(STEPS), reference)
        if record.forecast:
            forecasting.append((name, handle))
    return forecasting


@pytest.mark.filterwarnings("ignore::foreseer.ForeseerWarning")
@pytest.mark.parametrize("name", KINDS)
def test_a_site_of_the_registry(name: str) -> None:
    site = read_site(name)
    assert read_site(str(site)) == site == KINDS[name]()
    assert served(policy(name)), "forecasts nothing on any of the networks"
    hook = make_hook(site, tiny(NETWORKS[0]).pipe.transformer)
    assert isinstance(hook, SiteHook)
    everything = policy(name, fs.schedule.Uniform(interval=1))
    pipeline = tiny(NETWORKS[0])
    reference = pipeline.run(STEPS)
    with fs.accelerate(pipeline.pipe, everything):
        assert torch.equal(pipeline.run(STEPS), reference)


@pytest.mark.filterwarnings("ignore::foreseer.ForeseerWarning")
@pytest.mark.parametrize("name", SIGNALS)
def test_a_gates_signal(name: str) -> None:
    seen: list[list[torch.Tensor]] = []

    class Run(gate.GateRun):
        def computes(self, step: int, left: int | None, signal: Any) -> bool:
            seen.append([tensor.clone() for tensor in signal])
            return step % 2 == 0

    class Listening(gate.Gate):
        signal: ClassVar[str | None] = name

        def begin(self, setting: gate.Setting) -> gate.GateRun:
            return Run()

    assert served(fs.GatedPolicy(Listening(), fs.forecast.Newton(order=1))), "serves none of the networks"
    assert len(seen) >= STEPS
    assert all(torch.isfinite(tensor).all() for signal in seen for tensor in signal)
    assert any(
        not torch.equal(one, other)
        for before, after in pairwise(seen)
        for one, other in zip(before, after, strict=False)
        if one.shape == other.shape
    ), "says the same at each step"


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_costs_a_part_of_a_forward_pass(name: str) -> None:
    pipeline, calls = tiny(NETWORKS[0]), []
    network = pipeline.pipe.transformer
    hook = network.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    pipeline.run(1)
    hook.remove()
    linear: list[nn.Module] = []
    hooks = [
        part.register_forward_hook(lambda module, *_: linear.append(module))
        for part in network.modules()
        if isinstance(part, nn.Linear)
    ]
    args, kwargs = calls[0]
    with torch.no_grad():
        network(*args, **kwargs)
        whole = len(linear)
        probe = SIGNALS[name](network)
        assert isinstance(probe, SignalProbe)
        probe.measure(NetworkCall(network._call_impl, args, kwargs))  # finds its place in the network
        linear.clear()
        assert probe.measure(NetworkCall(network._call_impl, args, kwargs))
    probe.detach()
    for each in hooks:
        each.remove()
    assert len(linear) < whole
