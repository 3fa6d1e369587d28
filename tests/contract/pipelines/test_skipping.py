"""Skipped steps really skip, and a forecast that is the truth gives the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.interception import HOOK_NAME
from foreseer.runtime import BranchRun
from tests.contract.pipelines.conftest import STEPS
from tests.contract.pipelines.expected import SCHEDULES, check_pattern, seen_steps
from tests.support.pipelines import TinyPipeline

Passes = dict[str, Counter[tuple[str, str]]]  # by denoiser, of each layer in each branch


@contextmanager
def counting(tiny: TinyPipeline) -> Iterator[Passes]:
    """Forward passes of every layer with weights and no children, by denoiser and by branch."""
    counts: Passes = {name: Counter() for name in tiny.denoisers}
    hooks = []
    for denoiser, module in zip(tiny.denoisers, tiny.modules, strict=True):
        turn = [-1]  # the denoiser is called once a branch, in order

        def next_call(*_: object, turn: list[int] = turn) -> None:
            turn[0] = (turn[0] + 1) % len(tiny.branches)

        hooks.append(module.register_forward_pre_hook(next_call))
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):

                def count(*_: object, of: Any = counts[denoiser], name: str = name, turn: list[int] = turn) -> None:
                    of[name, tiny.branches[turn[0]]] += 1

                hooks.append(layer.register_forward_hook(count))
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def in_a_block(tiny: TinyPipeline, layer: str) -> bool:
    """Whether a layer is inside the stacks of blocks: lists of modules, but for what refines embeddings.

    DiT's head borrows the embedder of its first block.
    """
    unit = layer.split(".", maxsplit=1)[0]
    if "refiner" in unit or "caption" in unit or ".norm1.emb." in layer:
        return False
    children = dict(tiny.modules[0].named_children())
    return unit == "mid_block" or isinstance(children[unit], nn.ModuleList)


def in_a_module(layer: str, modules: Sequence[str]) -> bool:
    """Whether a layer is, or lies inside, one of the modules whose outputs are forecast."""
    return any(layer == module or layer.startswith(f"{module}.") for module in modules)


def is_routed(layer: str) -> bool:
    """Whether a layer belongs to an expert, which runs only for tokens routed to it."""
    return ".experts." in layer


@pytest.mark.parametrize("rule", SCHEDULES)
def test_each_branch_computes_the_steps_of_its_plan(tiny: TinyPipeline, site: str, rule: str) -> None:
    policy = fs.Policy(SCHEDULES[rule], fs.forecast.Newton(order=1), site=site)
    with fs.accelerate(tiny.pipe, policy) as handle:
        sample = tiny.run(STEPS)
    check_pattern(tiny, handle.record, SCHEDULES[rule], STEPS)
    assert torch.isfinite(sample).all()


def test_layers_run_at_computed_steps_only(tiny: TinyPipeline, site: str) -> None:
    with counting(tiny) as unaccelerated:
        tiny.run(STEPS)
    policy = fs.Policy(SCHEDULES["growing"], fs.forecast.Reuse(), site=site)
    with fs.accelerate(tiny.pipe, policy) as handle:
        tiny.run(STEPS)  # the last block's boundary is put to the proof here
        with counting(tiny) as accelerated:
            tiny.run(STEPS)
    skipped = 0
    prefixes = [f"{one} " if len(tiny.denoisers) > 1 else "" for one in tiny.denoisers]
    for denoiser, prefix in zip(tiny.denoisers, prefixes, strict=True):
        for (layer, branch), count in unaccelerated[denoiser].items():
            name = prefix + branch
            calls, computed = len(seen_steps(tiny, STEPS)[name]), len(handle.record.computed[name])
            if is_routed(layer):
                assert count <= calls, layer
                assert accelerated[denoiser][layer, branch] <= computed, layer
                continue
            passes, rest = divmod(count, calls)
            assert rest == 0
            if site == "modules" and not in_a_module(layer, handle.record.modules):
                assert accelerated[denoiser][layer, branch] in (count, passes * computed), layer
            elif site in ("output", "modules") or in_a_block(tiny, layer):
                assert accelerated[denoiser][layer, branch] == passes * computed, layer
                skipped += passes * (calls - computed)
        if site == "last_block":  # the head runs at every step
            head = [layer for layer in unaccelerated[denoiser] if not is_routed(layer[0])][-1]
            assert accelerated[denoiser][head] == unaccelerated[denoiser][head]
    assert skipped > 0


def test_a_true_row_gives_the_reference(
    tiny: TinyPipeline, site: str, reference: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth: list[list[Tensor]] = []

    def take(run: BranchRun, step: int, tensors: list[Tensor], names: Sequence[str] = (), **rest: Any) -> None:
        run.last_step = step
        truth.append([tensor.clone() for tensor in tensors])

    every = fs.Policy(fs.schedule.Explicit(range(STEPS)), fs.forecast.Reuse(), site=site)
    with monkeypatch.context() as patch, fs.accelerate(tiny.pipe, every):
        patch.setattr(BranchRun, "computed", take)
        tiny.run(STEPS)

    if site == "last_block":  # the hidden state of each head, and nothing after it
        assert {len(feature) for feature in truth} == {tiny.heads}
    position = iter(range(len(truth)))
    wrong = 0
    computed, forecast = BranchRun.computed, BranchRun.forecast

    def count(run: BranchRun, *given: Any, **rest: Any) -> None:
        next(position)
        computed(run, *given, **rest)

    def simulate(run: BranchRun, step: int) -> list[Tensor]:
        nonlocal wrong
        true_feature = truth[next(position)]
        reused = forecast(run, step)
        wrong += not all(torch.equal(one, true) for one, true in zip(reused, true_feature, strict=True))
        return [tensor.clone() for tensor in true_feature]

    policy = fs.Policy(SCHEDULES["growing"], fs.forecast.Reuse(), site=site)
    with fs.accelerate(tiny.pipe, policy) as handle:
        monkeypatch.setattr(BranchRun, "computed", count)
        monkeypatch.setattr(BranchRun, "forecast", simulate)
        sample = tiny.run(STEPS)
    check_pattern(tiny, handle.record, SCHEDULES["growing"], STEPS)
    assert next(position, None) is None
    assert wrong == sum(map(len, handle.record.forecast.values()))
    assert torch.equal(sample, reference)


@pytest.mark.parametrize("keep", ["device", "host"])
def test_no_feature_outlives_the_run(tiny: TinyPipeline, site: str, keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    forecast = BranchRun.forecast
    policy = fs.Policy(SCHEDULES["uniform"], fs.forecast.Newton(order=1), site=site)
    with fs.accelerate(tiny.pipe, policy, keep=keep):
        trackers = [module._diffusers_hook.get_hook(HOOK_NAME).tracker() for module in tiny.modules]

        def bytes_held() -> int:
            return sum(branch.run.store.bytes for one in trackers for branch in one._branches.values())

        def watched(run: BranchRun, step: int) -> Sequence[Tensor]:
            held.append(bytes_held())
            return forecast(run, step)

        monkeypatch.setattr(BranchRun, "forecast", watched)
        tiny.run(STEPS)
        left = bytes_held()
    assert min(held) > 0
    assert left == 0
