"""What another thread does to an attached model while the network runs."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import foreseer as fs
from foreseer.attach.interception import listener_of
from foreseer.attach.sites.output import OutputSite
from tests.support.attaching import TinyDenoiser, policy, sample
from tests.support.pipelines import build, randomise
from tests.unit.attach.test_front_door import Plain
from tests.unit.attach.test_runs import OneSchedulerAThread

FIRST_THREE = {"call 1": [0, 1, 2]}
SITES = ("last_block", "modules", "residual", "tokens")


def intercepted(model: nn.Module) -> list[str]:
    """Parts of a model that something was put on."""
    return [name for name, module in model.named_modules() if vars(module).get("_compiled_call_impl") is not None]


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)


@pytest.mark.parametrize("strict", [False, True])
def test_two_threads_find_at_once_that_the_site_is_missing(strict: bool) -> None:
    model, scheduler, together = randomise(Plain(), 3), OneSchedulerAThread(), threading.Barrier(2)
    records: list[Any] = []
    with warnings.catch_warnings(action="ignore", category=fs.ForeseerWarning):
        handle = fs.accelerate(model, "taylorseer", nfe=3, scheduler=scheduler, strict=strict)
        hook = listener_of(model)
        taken = hook.site.compute

        def compute(*args: Any) -> Any:
            together.wait(60)
            return taken(*args)

        hook.site.compute = compute

        def work() -> None:
            with torch.no_grad():
                sample(model, scheduler)
            records.append(handle.record)

        join([threading.Thread(target=work) for _ in range(2)])
        handle.detach()
    assert [(record.computed, record.failed_open) for record in records] == [(FIRST_THREE, [])] * 2


@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize("site", SITES)
def test_a_model_detached_while_its_site_is_found_keeps_nothing(site: str, which: int) -> None:
    fresh, calls = build("flux"), []
    model = fresh.pipe.transformer
    handle = fs.accelerate(fresh.pipe, policy(site))

    def let_go(*_: object) -> None:
        calls.append(1)
        if len(calls) == which:
            join([threading.Thread(target=handle.detach_silently)])

    model.norm_out.register_forward_pre_hook(let_go)
    with warnings.catch_warnings(action="ignore", category=fs.ForeseerWarning):
        assert torch.isfinite(fresh.run()).all()
    assert (handle.attached, intercepted(model)) == (False, [])


@pytest.mark.parametrize("gate", ["teacache", "first-block"])
def test_a_model_detached_while_its_signal_is_found_keeps_nothing(gate: str) -> None:
    fresh = build("flux")
    handle = fs.accelerate(fresh.pipe, gate, nfe=4)
    hook = listener_of(fresh.pipe.transformer)
    measured = hook.signal.measure

    def measure(call: Any) -> Any:
        join([threading.Thread(target=handle.detach_silently)])
        return measured(call)

    hook.signal.measure = measure
    with warnings.catch_warnings(action="ignore", category=fs.ForeseerWarning):
        assert torch.isfinite(fresh.run()).all()
    assert intercepted(fresh.pipe.transformer) == []


def test_a_site_that_one_thread_left_is_not_installed_by_another() -> None:
    """One has read the hook's site, and takes its feature after the other fell back to the output."""
    model, scheduler = randomise(TinyDenoiser(), 5), OneSchedulerAThread()
    reading, left = threading.Event(), threading.Event()
    handle = fs.accelerate(model, "taylorseer", nfe=3, scheduler=scheduler)
    hook = listener_of(model)
    taken = hook.site.compute

    def compute(*args: Any) -> Any:
        reading.set()
        left.wait(60)
        return taken(*args)

    hook.site.compute = compute

    def leave() -> None:
        reading.wait(60)
        hook.site.detach()
        hook.site = OutputSite()
        left.set()

    def draw() -> None:
        with torch.no_grad():
            sample(model, scheduler)

    with warnings.catch_warnings(action="ignore", category=fs.ForeseerWarning):
        join([threading.Thread(target=leave), threading.Thread(target=draw)])
        handle.detach()
    assert intercepted(model) == []


@pytest.mark.parametrize("tokens", [5, 9])
@pytest.mark.parametrize("site", ["last_block", "modules"])
def test_calls_of_another_thread_do_not_disturb_the_search_for_a_site(site: str, tokens: int) -> None:
    """They belong to no run; here one runs between the blocks and the head."""
    model, scheduler = randomise(TinyDenoiser(), 5), OneSchedulerAThread()
    inside, ended, others = threading.Event(), threading.Event(), []

    def call() -> None:
        with torch.no_grad(), warnings.catch_warnings(action="ignore", category=fs.ForeseerWarning):
            model(torch.randn(1, tokens, 4), torch.ones(1))

    def at_head(*_: object) -> None:
        if others and threading.current_thread() is others[0]:
            inside.set()
            ended.wait(60)
        elif not others:
            others.append(threading.Thread(target=call))
            others[0].start()
            inside.wait(60)

    model.head.register_forward_pre_hook(at_head)
    with torch.no_grad(), fs.accelerate(model, "taylorseer", nfe=3, site=site, scheduler=scheduler) as handle:
        sample(model, scheduler)
        ended.set()
        others[0].join(60)
        assert (handle.record.computed, handle.record.failed_open) == (FIRST_THREE, [])
