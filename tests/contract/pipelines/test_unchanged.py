"""Unchanged results: all-compute runs, second runs, detached pipelines, other settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from tests.contract.pipelines.conftest import STEPS
from tests.contract.pipelines.expected import SCHEDULES, check_pattern
from tests.support.pipelines import TinyPipeline


def newton(site: str) -> fs.Policy:
    """A policy whose rows weigh several steps."""
    return fs.Policy(SCHEDULES["growing"], fs.forecast.Newton(order=1), site=site)


def traces(module: nn.Module) -> list[str]:
    """What an attachment may leave on a module or below it."""
    found = []
    for name, one in module.named_modules():
        registry = getattr(one, "_diffusers_hook", None)
        if registry is not None and registry.hooks:
            found.append(f"{name}: hooks {list(registry.hooks)}")
        if "forward" in vars(one):
            found.append(f"{name}: forward")
        if one._forward_hooks or one._forward_pre_hooks:
            found.append(f"{name}: torch hooks")
    return found


def test_an_all_compute_policy_changes_no_bit(tiny: TinyPipeline, site: str, reference: Tensor) -> None:
    every = fs.schedule.Explicit(range(STEPS))
    with fs.accelerate(tiny.pipe, fs.Policy(every, fs.forecast.Reuse(), site=site)) as handle:
        sample = tiny.run(STEPS)
    check_pattern(tiny, handle.record, every, STEPS)
    assert torch.equal(sample, reference)


def test_a_second_run_is_the_first_again(tiny: TinyPipeline, site: str, reference: Tensor) -> None:
    with fs.accelerate(tiny.pipe, newton(site)) as handle:
        first = tiny.run(STEPS)
        record = handle.record
        second = tiny.run(STEPS)
    assert torch.equal(first, second)
    assert not torch.equal(first, reference)
    assert handle.record is not record
    assert handle.record.computed == record.computed


def test_detaching_leaves_no_trace(tiny: TinyPipeline, site: str, reference: Tensor) -> None:
    before = [set(vars(module)) | {"_diffusers_hook"} for module in tiny.modules]
    handle = fs.accelerate(tiny.pipe, newton(site))
    tiny.run(STEPS)
    assert any(traces(module) for module in tiny.modules)
    handle.detach()
    handle.detach()
    assert not handle.attached
    assert [traces(module) for module in tiny.modules] == [[] for _ in tiny.modules]
    assert [set(vars(module)) | {"_diffusers_hook"} for module in tiny.modules] == before
    assert torch.equal(tiny.run(STEPS), reference)


@pytest.mark.parametrize("change", ["steps", "batch", "size"])
def test_a_changed_setting_is_served_as_by_a_fresh_attachment(tiny: TinyPipeline, site: str, change: str) -> None:
    settings: dict[str, Any] = {"steps": {"steps": 6}, "batch": {"batch": 2}, "size": {"size": 2 * tiny.size}}[change]
    if change in tiny.fixed:
        settings = {"steps": 7, "seed": 1}
    with fs.accelerate(tiny.pipe, newton(site)) as handle:
        fresh = tiny.run(**{"steps": STEPS, **settings})
    with fs.accelerate(tiny.pipe, newton(site)) as handle:
        first = tiny.run(STEPS)
        changed = tiny.run(**{"steps": STEPS, **settings})
        check_pattern(tiny, handle.record, SCHEDULES["growing"], settings.get("steps", STEPS))
        again = tiny.run(STEPS)
    assert torch.equal(changed, fresh)
    assert torch.equal(again, first)
