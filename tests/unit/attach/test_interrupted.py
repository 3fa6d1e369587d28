"""A run that was broken off leaves nothing behind for the next one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foreseer as fs
from foreseer.attach.interception import HOOK_NAME, Interception
from foreseer.site import SITES
from tests.support.attaching import STEPS, accelerated, policy, tiny

NAMES = ("flux", "sd3", "qwen_image", "dit", "wan_2_2")


class StoppedError(Exception):
    """Raised inside of a model."""


def break_off(name: str, step: int) -> None:
    """A run of another seed that raises inside the denoiser at its call ``step``."""
    calls = 0

    def count(forward: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > step * len(tiny(name).branches):
            raise StoppedError
        return forward(*args, **kwargs)

    hooks = [Interception(module, count) for module in tiny(name).modules]
    for hook in hooks:
        hook.install()
    try:
        with pytest.raises(StoppedError):
            tiny(name).run(seed=99)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("step", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("name", NAMES)
def test_an_exception_before_a_call(name: str, step: int, site: str) -> None:
    expected = accelerated(name, site=site)
    with fs.accelerate(tiny(name).pipe, policy(site)) as handle:
        break_off(name, step)
        found = tiny(name).run()
    assert torch.equal(found, expected)
    assert handle.record.failed_open == []


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("step", [0, 2, 4])
@pytest.mark.parametrize("branch", [0, 1])
def test_an_exception_inside_the_network(branch: int, step: int, site: str) -> None:
    """Qwen-Image, within the blocks of one branch of a computed step."""
    expected = accelerated("qwen_image", site=site)
    pipe = tiny("qwen_image").pipe
    with fs.accelerate(pipe, policy(site)) as handle:
        tiny("qwen_image").run()  # the boundary is found, so that calls of blocks can be counted
        calls = 0

        def fail(*_: Any) -> None:
            nonlocal calls
            calls += 1
            if calls > step + branch:  # every second step computes, with two calls each
                raise StoppedError

        hook = pipe.transformer.transformer_blocks[0].attn.register_forward_pre_hook(fail)
        with pytest.raises(StoppedError):
            tiny("qwen_image").run(seed=99)
        hook.remove()
        assert calls == step + branch + 1
        found = tiny("qwen_image").run()
    assert torch.equal(found, expected)
    assert handle.record.failed_open == []
    assert not hasattr(pipe.transformer, "_diffusers_hook") or not pipe.transformer._diffusers_hook.hooks


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("step", [0, 3, 6])
@pytest.mark.parametrize("name", ["flux", "sd3", "qwen_image"])
def test_the_pipelines_own_interruption(name: str, step: int, site: str) -> None:
    expected = accelerated(name, site=site)

    def stop(pipe: Any, index: int, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = index >= step
        return {}

    with fs.accelerate(tiny(name).pipe, policy(site)) as handle:
        tiny(name).run(seed=99, callback_on_step_end=stop)
        stopped = handle.record
        found = tiny(name).run()
    assert max(max(stopped.computed[branch] + stopped.forecast.get(branch, [])) for branch in stopped.computed) == step
    assert torch.equal(found, expected)
    assert handle.record is not stopped


@pytest.mark.parametrize("site", SITES)
def test_leaving_the_with_block_by_an_exception_detaches(site: str) -> None:
    handle = fs.accelerate(tiny("flux").pipe, policy(site))

    def leave() -> None:
        with handle:
            tiny("flux").run()
            raise StoppedError

    with pytest.raises(StoppedError):
        leave()
    assert not handle.attached
    assert "forward" not in vars(tiny("flux").pipe.transformer)


def test_a_run_broken_off_and_another_length() -> None:
    expected = accelerated("flux", steps=5)
    with fs.accelerate(tiny("flux").pipe, policy()) as handle:
        break_off("flux", 3)
        tracker = tiny("flux").pipe.transformer._diffusers_hook.get_hook(HOOK_NAME).tracker()
        assert sum(one.run.store.bytes for one in tracker._branches.values()) > 0
        assert torch.equal(tiny("flux").run(5), expected)
        assert sum(one.run.store.bytes for one in tracker._branches.values()) == 0
    assert handle.record.steps == 5 != STEPS
