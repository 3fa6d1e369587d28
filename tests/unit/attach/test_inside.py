"""Gates that look inside the network: TeaCache and the first block."""

from __future__ import annotations

import warnings
from functools import cache
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.denoiser_hook import DenoiserHook
from foreseer.attach.interception import HOOK_NAME
from foreseer.gate import FirstBlock, Gate, GatedPolicy, TeaCache
from tests.support.attaching import STEPS, TinyDenoiser, flow_scheduler, reference, sample, tiny
from tests.support.pipelines import randomise

# For each pipeline: its first block, the first layer there that gets the modulated tokens, and where among the block's
# outputs the hidden state is.
FIRST = {
    "flux": ("transformer_blocks.0", "attn.to_q", 1),
    "sd3": ("transformer_blocks.0", "attn.to_q", 1),
    "dit": ("transformer_blocks.0", "attn1.to_q", None),
    "wan": ("blocks.0", "attn1.to_q", None),
    "hunyuan_video": ("transformer_blocks.0", "attn.to_q", 0),
}
SITES = ("output", "last_block", "change", "change(kept=1)")
COEFFICIENTS = (-2.0, 0.5, 1.5, 0.01)
CASES = [*(("flux", site) for site in SITES), *((name, site) for name in list(FIRST)[1:] for site in SITES[::3])]


def gated(gate: Gate, site: str = "output", **options: Any) -> GatedPolicy:
    return GatedPolicy(gate, fs.forecast.Reuse(), site, decided_by="each", **options)


def watched(name: str, policy: GatedPolicy, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Tensor], list[Tensor]]:
    """Record of a gated run, with its first block's inputs and changes at every call.

    The calls' arguments are noted, and the unaccelerated network run on them afterwards, with plain hooks.
    """
    run, (path, layer, position) = tiny(name), FIRST[name]
    model, calls, ordinary = run.modules[0], [], DenoiserHook.call

    def noted(hook: DenoiserHook, forward: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return ordinary(hook, forward, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DenoiserHook, "call", noted)
        with fs.accelerate(run.pipe, policy) as handle:
            run.run()
    modulated, changes = [], []

    def change(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        changes.append((output if position is None else output[position]) - hidden)

    block = model.get_submodule(path)
    hooks = [
        block.get_submodule(layer).register_forward_pre_hook(lambda _, args: modulated.append(args[0].clone())),
        block.register_forward_hook(change, with_kwargs=True),
    ]
    with torch.no_grad():
        for args, kwargs in calls:
            model(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return handle.record, modulated, changes


@cache
def usual_changes(name: str) -> tuple[float, float]:
    """Median changes in an all-compute run: rescaled for the modulated input, and of the first block."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", fs.ForeseerWarning)  # that nothing was saved
        _, modulated, changes = watched(name, gated(FirstBlock(0.0)), patch)
    count = len(tiny(name).branches)
    pairs = range(count, len(changes))
    rescaled = median(polynomial(distance(modulated[at], modulated[at - count])) for at in pairs)
    return rescaled, median(distance(changes[at], changes[at - count]) for at in pairs)


def polynomial(change: float) -> float:
    return sum(c * change**power for power, c in enumerate(reversed(COEFFICIENTS)))


def distance(now: Tensor, before: Tensor) -> float:
    return float((now - before).abs().sum().double() / before.abs().sum().double())


def teacache_by_hand(modulated: list[Tensor], threshold: float) -> list[int]:
    """The computed steps of one branch."""
    computed, total = [0], 0.0
    for step in range(1, len(modulated)):
        change = distance(modulated[step], modulated[step - 1])
        total += polynomial(change)
        if total >= threshold or step == len(modulated) - 1:
            computed.append(step)
            total = 0.0
    return computed


def first_block_by_hand(changes: list[Tensor], threshold: float) -> list[int]:
    computed = [0]
    for step in range(1, len(changes)):
        if distance(changes[step], changes[computed[-1]]) >= threshold:
            computed.append(step)
    return computed


@pytest.mark.parametrize(("name", "site"), CASES)
def test_teacache_computes_the_steps_that_its_formula_says(
    name: str, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = TeaCache(1.5 * usual_changes(name)[0], COEFFICIENTS)
    record, modulated, _ = watched(name, gated(gate, site), monkeypatch)
    branches = tiny(name).branches
    for index, branch in enumerate(branches):
        expected = teacache_by_hand(modulated[index :: len(branches)], gate.threshold)
        assert record.computed[branch] == expected
        assert 2 < len(expected) < STEPS
    assert record.failed_open == []


@pytest.mark.parametrize(("name", "site"), CASES)
def test_the_first_block_gate_computes_the_steps_that_its_formula_says(
    name: str, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = FirstBlock(1.1 * usual_changes(name)[1])
    record, _, changes = watched(name, gated(gate, site), monkeypatch)
    branches = tiny(name).branches
    for index, branch in enumerate(branches):
        expected = first_block_by_hand(changes[index :: len(branches)], gate.threshold)
        assert record.computed[branch] == expected
        assert 1 < len(expected) < STEPS
    assert record.failed_open == []


@pytest.mark.parametrize("site", ["output", "change"])
@pytest.mark.parametrize("gate", [TeaCache(0.0), FirstBlock(0.0)], ids=["teacache", "first-block"])
@pytest.mark.parametrize("name", ["flux", "wan", "dit"])
@pytest.mark.filterwarnings("ignore:A run saved nothing")
def test_at_threshold_0_every_step_computes_to_the_bit(name: str, gate: Gate, site: str) -> None:
    with fs.accelerate(tiny(name).pipe, gated(gate, site)) as handle:
        assert torch.equal(tiny(name).run(), reference(name))
    assert handle.record.forecast == {}
    assert handle.record.failed_open == []


class StopError(Exception):
    """Ends a run in its middle."""


def stop(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
    if step == 4:
        raise StopError
    return {}


@pytest.mark.parametrize("gate", [TeaCache(0.5), FirstBlock(0.8)], ids=["teacache", "first-block"])
def test_runs_do_not_know_of_each_other(gate: Gate) -> None:
    """A second run, one of another batch, one after an abort: each as by a fresh attachment."""
    run, pipe = tiny("flux"), tiny("flux").pipe
    with fs.accelerate(pipe, gated(gate, "change")):
        both = run.run(batch=2)
    with fs.accelerate(pipe, gated(gate, "change")) as handle:
        first = run.run()
        assert 1 < handle.record.nfe < STEPS
        assert torch.equal(run.run(), first)
        assert torch.equal(run.run(batch=2), both)
        with pytest.raises(StopError):
            run.run(seed=5, callback_on_step_end=stop)
        assert torch.equal(run.run(), first)
    assert torch.equal(run.run(), reference("flux"))
    assert not any("compile" in vars(module) for module in run.modules[0].modules())


def test_first_and_last_step_compute_and_the_maximum_holds() -> None:
    with fs.accelerate(tiny("flux").pipe, gated(TeaCache(1e6))) as handle:
        tiny("flux").run()
    assert handle.record.computed_steps == (0, STEPS - 1)
    with fs.accelerate(tiny("flux").pipe, gated(TeaCache(0.0), max_nfe=3)) as handle:
        tiny("flux").run()
    assert handle.record.computed_steps == (0, 1, 2)


class Timed(TinyDenoiser):
    """Blocks that are modulated by the time, two of them before any that the sample reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.refiners = nn.ModuleList(Modulated() for _ in range(2))
        self.blocks = nn.ModuleList(Modulated() for _ in range(3))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        time = self.embed_time(timestep.float().reshape(-1, 1, 1) / 1000)
        words = torch.ones(x.shape[0], 7, 16)
        for block in self.refiners:
            words = block(words, time)
        hidden = self.embed(x) + words.mean(1, keepdim=True)
        for block in self.blocks:
            hidden = block(hidden, time)
        return self.head(hidden)


class Modulated(nn.Module):
    """A layer after a norm that the time scales."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Linear(16, 16), nn.Linear(16, 16)
        self.runs = 0

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        modulated = nn.functional.layer_norm(hidden, (16,)) * (1 + self.scale(time))
        out = hidden + torch.tanh(self.layer(modulated))
        self.runs += 1
        return out


@pytest.mark.parametrize("gate", [TeaCache(0.3), FirstBlock(0.3)], ids=["teacache", "first-block"])
def test_the_first_block_is_the_one_that_the_sample_reaches_and_runs_once_a_step(gate: Gate) -> None:
    model, scheduler = randomise(Timed(), 2), flow_scheduler()
    with torch.no_grad(), fs.accelerate(model, gated(gate, "change(kept=3)"), scheduler=scheduler) as handle:
        sample(model, scheduler)
        probe = model._diffusers_hook.get_hook(HOOK_NAME).signal
        (first,) = probe._first_blocks.values()
        assert first.block_call.module is model.blocks[0]
        if isinstance(gate, TeaCache):
            assert probe._matrices == {(model.blocks[0], 5): model.blocks[0].layer}
        for block in (*model.refiners, *model.blocks):
            block.runs = 0
        sample(model, scheduler)
    nfe = handle.record.nfe
    assert 1 < nfe < STEPS
    assert handle.record.failed_open == []
    assert [block.runs for block in model.refiners] == [STEPS, STEPS]
    assert [block.runs for block in model.blocks] == [STEPS, nfe, nfe]


class NoStack(TinyDenoiser):
    """Layers without a list."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        del self.blocks

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.head(self.two(torch.tanh(self.one(self.embed(x)))))


@pytest.mark.parametrize("gate", [TeaCache(0.3), FirstBlock(0.3)], ids=["teacache", "first-block"])
@pytest.mark.parametrize(
    ("kind", "gradients", "value", "reason"),
    [
        (Timed, True, 1.0, "gradients are enabled"),
        (Timed, False, float("nan"), "not finite"),
        (NoStack, False, 1.0, "NoStack has no block that takes its sample and passes it on"),
    ],
)
def test_what_cannot_be_told_is_computed_and_said(
    gate: Gate, kind: type[TinyDenoiser], gradients: bool, value: float, reason: str
) -> None:
    model, scheduler = randomise(kind(), 2), flow_scheduler()
    model.embed.weight.data *= value
    with torch.set_grad_enabled(gradients):
        expected = sample(model, scheduler)
        attached = fs.accelerate(model, gated(gate), scheduler=scheduler)
        with attached as handle, pytest.warns(fs.ForeseerWarning, match=reason):
            found = sample(model, scheduler)
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    assert handle.record.nfe == STEPS
    assert len(handle.record.failed_open) >= STEPS - 2  # the last step computes by TeaCache's rule


def test_any_forecaster_stands_behind_a_gate() -> None:
    policy = GatedPolicy(TeaCache(0.5), fs.forecast.Newton(order=1), "last_block", decided_by="each")
    with fs.accelerate(tiny("flux").pipe, policy) as handle:
        found = tiny("flux").run()
    plan = handle.record.plans["cond"].plan
    assert plan.computed_steps == tuple(handle.record.computed["cond"])
    with fs.accelerate(tiny("flux").pipe, plan):
        assert torch.equal(tiny("flux").run(), found)
