"""Several generations on one model: each is its serial run, or computed; never mixed."""

from __future__ import annotations

import random
import warnings
from collections.abc import Generator
from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import foreseer as fs
from tests.support.attaching import TinyDenoiser, flow_scheduler, policy, tiny
from tests.support.pipelines import assemble, embeds, randomise, square


class Conditioned(TinyDenoiser):
    """A denoiser that takes text."""

    def forward(self, x: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
        return super().forward(x + words, timestep)


@cache
def model() -> Conditioned:
    return randomise(Conditioned(), 5)


def generation(scheduler: Any, steps: int, seed: int) -> Generator[None, None, Tensor]:
    """Samples, and pauses after every call of the network and of the scheduler."""
    generator = torch.Generator().manual_seed(seed)
    x, words = torch.randn(1, 5, 4, generator=generator), torch.randn(1, 5, 4, generator=generator)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        with torch.no_grad():
            velocity = model()(x, t.expand(1), words)
        yield
        x = scheduler.step(velocity, t, x, return_dict=False)[0]
        yield
    return x


def to_its_end(one: Generator[None, None, Tensor]) -> Tensor:
    while True:
        try:
            next(one)
        except StopIteration as stop:
            return stop.value


def serial(steps: int, seed: int, attached: bool) -> Tensor:
    scheduler = flow_scheduler()
    if not attached:
        return to_its_end(generation(scheduler, steps, seed))
    with fs.accelerate(model(), policy(), scheduler=scheduler):
        return to_its_end(generation(scheduler, steps, seed))


def interleaved(order: str, steps: dict[str, int], seed: int = 0) -> tuple[dict[str, Tensor], Any]:
    """Two generations, the policy attached with the scheduler of A, resumed by turns in one thread."""
    schedulers = {"A": flow_scheduler(), "B": flow_scheduler()}
    chance, results, turn = random.Random(seed), {}, 0
    with fs.accelerate(model(), policy(), scheduler=schedulers["A"]) as handle, warnings.catch_warnings():
        warnings.simplefilter("ignore", fs.ForeseerWarning)
        running = {name: generation(schedulers[name], steps[name], "AB".index(name)) for name in "AB"}
        while running:
            name = chance.choice("AB") if order == "by chance" else order[turn % len(order)]
            turn += 1
            if name in running:
                try:
                    next(running[name])
                except StopIteration as stop:
                    results[name] = stop.value
                    del running[name]
    return results, handle.record


@pytest.mark.cell("concurrency", "two runs interleaved call by call in one thread", "fails open")
@pytest.mark.parametrize("order", ["AB", "BA", "AABB", "by chance"])
def test_generations_interleaved_in_one_thread(order: str) -> None:
    for seed in range(5 if order == "by chance" else 1):
        found, record = interleaved(order, {"A": 8, "B": 6}, seed)
        assert torch.equal(found["A"], serial(8, 0, attached=True))
        assert torch.equal(found["B"], serial(6, 1, attached=False))
        assert record.forecast == {"call 1": [1, 3, 5, 7]}
        if order == "AABB":
            assert {one.reason.split(": ")[-1] for one in record.failed_open} == {"the call belongs to another run"}


@pytest.mark.cell("concurrency", "two pipelines on one model in lockstep: each uses its own features", "works")
def test_generations_in_lockstep() -> None:
    found, record = interleaved("AB", {"A": 8, "B": 8})
    assert torch.equal(found["A"], serial(8, 0, attached=True))
    assert torch.equal(found["B"], serial(8, 1, attached=True))
    assert record.forecast == {"call 1": [1, 3, 5, 7], "call 2": [1, 3, 5, 7]}
    assert record.failed_open == []
    swapped, _ = interleaved("ABBABAAB", {"A": 8, "B": 8})
    assert torch.equal(swapped["A"], found["A"])


@pytest.mark.cell("concurrency", "two pipelines that share a transformer, one attached", "fails open")
def test_two_pipelines_on_one_transformer() -> None:
    attached = tiny("flux")
    other = assemble(diffusers.FluxPipeline, transformer=attached.pipe.transformer, scheduler=flow_scheduler())

    def run() -> Tensor:
        given = {"prompt_embeds": embeds(1, 6, 32, seed=3), "pooled_prompt_embeds": embeds(1, 32, seed=4)}
        generator = torch.Generator().manual_seed(5)
        return other(**given, **square(64), num_inference_steps=5, generator=generator).images

    alone = run()
    with fs.accelerate(attached.pipe, policy()) as handle:
        expected = attached.run()
        with pytest.warns(fs.ForeseerWarning, match="past its last step"):
            assert torch.equal(run(), alone)
        assert torch.equal(attached.run(), expected)
    assert handle.record.failed_open == []
    assert handle.record.nfe == 4


@pytest.mark.cell("concurrency", "another pipeline on the same model in another thread, during a run", "fails open")
def test_a_foreign_call_in_the_middle_of_a_run() -> None:
    scheduler, other = flow_scheduler(), flow_scheduler()
    other.set_timesteps(5)
    with fs.accelerate(model(), policy(), scheduler=scheduler) as handle:
        own = generation(scheduler, 8, 0)
        x, words = torch.ones(1, 5, 4), torch.ones(1, 5, 4)
        expected = []
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", fs.ForeseerWarning)
            for t in other.timesteps:
                for _ in range(2):
                    next(own)
                expected.append(model()(x, t.expand(1), words))
            found = to_its_end(own)
    assert torch.equal(found, serial(8, 0, attached=True))
    with torch.no_grad():
        for t, one in zip(other.timesteps, expected, strict=True):
            assert torch.equal(model()(x, t.expand(1), words), one)
    assert handle.record.forecast == {"call 1": [1, 3, 5, 7]}
