"""Runs broken off by an exception, a signal, a forecast that fails: the next one is a clean process's."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer.attach.interception import Interception, is_hooked
from foreseer.runtime import branch as branch_of_runtime
from foreseer.site import SITES
from tests.robustness.cells import ROOT
from tests.robustness.emoji import PANDA, ROCKET, draw, emoji
from tests.robustness.served import COMPUTED, FORECAST
from tests.support.attaching import STEPS, TinyDenoiser, accelerated, flow_scheduler, policy, sample, tiny
from tests.support.pipelines import randomise

EVERY_SITE = pytest.mark.parametrize("site", SITES)


class StoppedError(Exception):
    """Raised inside of a run."""


def at(step: int, stop: Callable[[], None]) -> Callable[..., dict[str, Any]]:
    """A callback that calls ``stop`` after ``step``."""

    def callback(pipe: Any, index: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        if index == step:
            stop()
        return {}

    return callback


def raising(error: type[BaseException]) -> Callable[[], None]:
    def stop() -> None:
        raise error

    return stop


@pytest.mark.cell("runs", "an exception or Ctrl-C in the callback, at each step", "works")
@pytest.mark.parametrize("error", [StoppedError, KeyboardInterrupt])
def test_broken_off_in_the_callback(error: type[BaseException]) -> None:
    expected = accelerated("flux")
    with fs.accelerate(tiny("flux").pipe, policy()) as handle:
        for step in range(STEPS):
            with pytest.raises(error):
                tiny("flux").run(seed=99, callback_on_step_end=at(step, raising(error)))
            assert torch.equal(tiny("flux").run(), expected), step
            assert handle.record.forecast == {"cond": FORECAST}


@pytest.mark.cell("runs", "an exception or Ctrl-C in the network, at each computed step", "works")
@pytest.mark.parametrize("site", ["output", "last_block"])
@pytest.mark.parametrize("error", [StoppedError, KeyboardInterrupt])
def test_broken_off_in_the_network(error: type[BaseException], site: str) -> None:
    expected = accelerated("flux", site=site)
    tiny_flux = tiny("flux")
    block = tiny_flux.pipe.transformer.transformer_blocks[0].attn
    calls, last = 0, STEPS

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > last:
            raise error

    with fs.accelerate(tiny_flux.pipe, policy(site)):
        tiny_flux.run()
        hook = block.register_forward_pre_hook(count)
        for done in range(len(COMPUTED)):
            calls, last = 0, done
            with pytest.raises(error):
                tiny_flux.run(seed=99)
            last = STEPS
            calls = 0
            assert torch.equal(tiny_flux.run(), expected), done
        hook.remove()


@pytest.mark.cell("runs", "a forecast step whose caller raises afterwards", "works")
def test_a_lost_forecast_leaves_nothing() -> None:
    expected = accelerated("flux")
    with fs.accelerate(tiny("flux").pipe, policy()):
        calls = 0

        def stop(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            result = forward(*args, **kwargs)
            if calls == 4:  # step 3 was forecast, and its result is lost
                raise StoppedError
            return result

        interception = Interception(tiny("flux").pipe.transformer, stop)
        interception.install()
        with pytest.raises(StoppedError):
            tiny("flux").run(seed=99)
        interception.remove()
        assert torch.equal(tiny("flux").run(), expected)


@contextmanager
def failing_sum(error: Exception, at_sum: int = 1) -> Iterator[None]:
    """The weighted sum raises ``error`` once, the ``at_sum``-th time."""
    weighted_sum, sums = branch_of_runtime.weighted_sum, 0

    def fail(features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        nonlocal sums
        sums += 1
        if sums == at_sum:
            raise error
        return weighted_sum(features, weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branch_of_runtime, "weighted_sum", fail)
        yield
    assert sums >= at_sum


@pytest.mark.cell("runs", "out of memory in a forecast: raised; the next run is served", "works")
@pytest.mark.usefixtures("as_users_call")  # run-time checks of annotations ask for sums too
@EVERY_SITE
def test_a_forecast_out_of_memory(site: str) -> None:
    error = torch.OutOfMemoryError("out of memory")
    expected = accelerated("flux", site=site)
    with fs.accelerate(tiny("flux").pipe, policy(site)) as handle:
        assert torch.equal(tiny("flux").run(), expected)
        for at_sum in (1, 2, 3, 4):
            with failing_sum(error, at_sum), pytest.raises(torch.OutOfMemoryError) as raised:
                tiny("flux").run(seed=99)
            assert raised.value is error
            assert handle.record.failed_open == []
            assert torch.equal(tiny("flux").run(), expected), at_sum
            assert handle.record.forecast == {"cond": FORECAST}


@pytest.mark.cell("runs", "a forecast that fails", "fails open")
@EVERY_SITE
@pytest.mark.usefixtures("as_users_call")
def test_a_forecast_that_fails_otherwise_is_computed(site: str) -> None:
    with fs.accelerate(tiny("flux").pipe, policy(site)) as handle:
        with failing_sum(ValueError("a view of another size")), pytest.warns(fs.ForeseerWarning, match="another size"):
            tiny("flux").run()
        (failed,) = handle.record.failed_open
        assert failed.step == FORECAST[0]
        assert handle.record.forecast["cond"] == FORECAST[1:]
        assert handle.record.calls == handle.record.steps


@pytest.mark.cell("runs", "a failed forecast, requested again: computed", "works")
@pytest.mark.usefixtures("as_users_call")
def test_a_failed_forecast_asked_for_again() -> None:
    model, scheduler = randomise(TinyDenoiser(), 5), flow_scheduler()
    again: list[Tensor] = []

    class Retrying:
        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            try:
                return model(x, t)
            except RuntimeError:
                again.append(x.clone())
                return model(x, t)

    with torch.no_grad(), fs.accelerate(model, policy(), scheduler=scheduler) as handle:
        expected = sample(model, scheduler)
        calls = model.calls
        with failing_sum(torch.OutOfMemoryError("out of memory"), 2):
            found = sample(Retrying(), scheduler)
        assert len(again) == 1
        assert handle.record.computed == {"call 1": [0, 2], "call 2": [3, 5, 7]}
        assert handle.record.forecast == {"call 1": [1], "call 2": [4, 6]}
        assert model.calls - calls == 5
        assert not torch.equal(found, expected)
        assert torch.equal(sample(model, scheduler), expected)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, as in a separate program; test runners may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def run_until_interrupted(seconds: float) -> None:
    """Runs in sequence; a signal that tqdm loses while its bar is destroyed is sent again."""
    for _ in range(20):
        timer = threading.Timer(seconds, interrupt)
        timer.start()
        while timer.is_alive():
            tiny("flux").run(seed=99)


@pytest.mark.cell("runs", "SIGINT from outside, after a step or at any moment", "works")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@EVERY_SITE
def test_a_signal(site: str) -> None:
    expected = accelerated("flux", site=site)
    with fs.accelerate(tiny("flux").pipe, policy(site)) as handle, interruptible():
        with pytest.raises(KeyboardInterrupt):
            tiny("flux").run(seed=99, callback_on_step_end=at(3, interrupt))
        assert torch.equal(tiny("flux").run(), expected)
        for milliseconds in (3, 11, 23, 37):
            with pytest.raises(KeyboardInterrupt):
                run_until_interrupted(milliseconds / 1000)
            assert torch.equal(tiny("flux").run(), expected), milliseconds
            assert handle.record.forecast == {"cond": FORECAST}


class _Interrupting:
    """Raises at the n-th line that Foreseer runs, wherever it is."""

    def __init__(self, at_line: int) -> None:
        self.left = at_line
        self.where = ""

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if "foreseer" not in frame.f_globals.get("__name__", ""):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self


@pytest.mark.slow
@pytest.mark.cell("runs", "Ctrl-C at any line of Foreseer, then the next run", "works")
@pytest.mark.parametrize("site", [site for site in SITES if site != "tokens"])  # its proof is long, line by line
def test_interrupted_at_any_line(site: str) -> None:
    expected, plain = accelerated("flux", site=site), tiny("flux").run(seed=5)
    kept, line = [], 1  # a kept traceback keeps its frames, and what is suspended in them
    while True:
        handle = fs.accelerate(tiny("flux").pipe, policy(site))
        at_line, before = _Interrupting(line), sys.gettrace()
        sys.settrace(at_line)
        try:
            tiny("flux").run(seed=99)
            break
        except KeyboardInterrupt as error:
            kept.append(error)
        finally:
            sys.settrace(before)
        assert torch.equal(tiny("flux").run(), expected), at_line.where
        assert handle.record.forecast == {"cond": FORECAST}, at_line.where
        assert handle.record.failed_open == [], at_line.where
        handle.detach()
        assert torch.equal(tiny("flux").run(seed=5), plain), at_line.where
        line += 1 + line // 5
    handle.detach()
    assert len(kept) > 20


EMPTY = {"_diffusers_hook"}  # diffusers makes a registry when a context is set, and keeps it


@pytest.mark.cell("runs", "Ctrl-C while attaching or detaching, then `fs.detach`: no trace left", "works")
@EVERY_SITE
@pytest.mark.parametrize("what", ["attaching", "letting go"])
def test_attaching_interrupted_at_any_line(site: str, what: str) -> None:
    pipe, line, finished = tiny("flux").pipe, 1, False
    plain, model = tiny("flux").run(), pipe.transformer
    untouched = {name: vars(part).keys() - EMPTY for name, part in model.named_modules()}
    while not finished:
        handle = fs.accelerate(pipe, policy(site)) if what == "letting go" else None
        if handle is not None:
            tiny("flux").run()
        at_line, before = _Interrupting(line), sys.gettrace()
        sys.settrace(at_line)
        try:
            if handle is None:
                fs.accelerate(pipe, policy(site))
            else:
                handle.detach()
            finished = True
        except KeyboardInterrupt:
            line += 1 + line // 10
        finally:
            sys.settrace(before)
        fs.detach(pipe)
        assert not is_hooked(model), at_line.where
        for name, part in model.named_modules():
            assert vars(part).keys() - EMPTY == untouched[name], (at_line.where, name)
        assert torch.equal(tiny("flux").run(), plain), at_line.where
    assert line > 20


def digest(site: str, broken: bool = False) -> str:
    """Digest of a bundled pipeline's picture, the first or after a run ``broken`` off in its middle."""
    torch.set_num_threads(1)
    with torch.no_grad(), fs.accelerate(emoji(), policy(site)):
        if broken:
            with pytest.raises(StoppedError):
                draw(emoji(), ROCKET, seed=7, steps=9, callback_on_step_end=at(4, raising(StoppedError)))
        return hashlib.sha256(draw(emoji(), PANDA).numpy().tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.cell("runs", "an aborted run, then another: the bits of a fresh process", "works")
@EVERY_SITE
def test_the_bits_of_a_fresh_process(site: str) -> None:
    program = f"from tests.robustness.test_broken_off import digest; print(digest({site!r}))"
    fresh = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert digest(site, broken=True) == fresh.stdout.split()[-1]
