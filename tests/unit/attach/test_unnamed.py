"""Unknown models work by their structure, or are refused with the reason and the remedy."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.interception import is_hooked
from foreseer.errors import AttachError, ForeseerWarning
from tests.support.attaching import STEPS, TinyDenoiser, denoiser, flow_scheduler, policy, sample
from tests.support.pipelines import randomise

EVERY = fs.schedule.Explicit(range(STEPS))


class Seamless(nn.Module):
    """One layer after another, no list of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x) + timestep.float().reshape(-1, 1, 1) / 1000)
        return self.third(torch.tanh(self.second(hidden)))


class Words(nn.Module):
    """Stands for a text encoder: takes no timestep."""

    def forward(self, words: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")
        return torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(seed))


class OwnPipeline(diffusers.DiffusionPipeline):
    """A user-defined pipeline: its denoiser is called ``brain``."""

    def __init__(self, brain: Any, scheduler: Any, reader: Any, helper: Any = None) -> None:
        super().__init__()
        self.register_modules(brain=brain, scheduler=scheduler, reader=reader, helper=helper)

    @torch.no_grad()
    def __call__(
        self, prompt: str, num_inference_steps: int = STEPS, generator: Any = None, output_type: str = "latent"
    ) -> Any:
        """The final sample."""
        self.scheduler.set_timesteps(num_inference_steps)
        words = self.reader(prompt)
        latents = torch.randn(1, 5, 4, generator=generator)
        for t in self.scheduler.timesteps:
            velocity = self.brain(latents + words, timestep=t.expand(1))
            latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
        return SimpleNamespace(images=latents)


def own(helper: Any = None) -> OwnPipeline:
    """One, fresh."""
    return OwnPipeline(randomise(TinyDenoiser(), 5), flow_scheduler(), Words(), helper)


def draw(pipe: OwnPipeline) -> Tensor:
    """One sample of it."""
    return pipe("a word", generator=torch.Generator().manual_seed(1)).images


@pytest.mark.parametrize("site", ["output", "last_block"])
def test_a_module_and_a_scheduler_are_enough(site: str) -> None:
    model, scheduler = denoiser(), flow_scheduler()
    with torch.no_grad():
        reference = sample(model, scheduler)
        with fs.accelerate(model, fs.Policy(EVERY, fs.forecast.Reuse(), site), scheduler=scheduler, strict=True):
            assert torch.equal(sample(model, scheduler), reference)
        with fs.accelerate(model, policy(site), scheduler=scheduler, strict=True) as handle:
            first, second = sample(model, scheduler), sample(model, scheduler)
        after = sample(model, scheduler)
    assert handle.record is not None
    assert handle.record.computed_steps == (0, 2, 4, 6)
    assert torch.equal(first, second)
    assert not torch.equal(first, reference)
    assert torch.equal(after, reference)


@pytest.mark.parametrize("site", ["output", "last_block"])
def test_a_denoiser_of_any_name_is_found_by_its_timestep(site: str) -> None:
    pipe = own()
    reference = draw(pipe)
    with fs.accelerate(pipe, policy(site), strict=True) as handle:
        assert is_hooked(pipe.brain)
        assert not is_hooked(pipe.reader)
        drawn = draw(pipe)
    assert handle.record is not None
    assert handle.record.computed_steps == (0, 2, 4, 6)
    assert not torch.equal(drawn, reference)
    assert torch.equal(draw(pipe), reference)


def test_it_is_calibrated_and_served_like_any_other() -> None:
    pipe = own()
    kernel = fs.calibrate(pipe, ["one", "two", "three"], num_inference_steps=STEPS)
    reference = draw(pipe)
    with fs.accelerate(pipe, fs.learned(kernel, nfe=5), strict=True) as handle:
        error = float((draw(pipe) - reference).norm() / reference.norm())
    assert handle.record is not None
    assert handle.record.nfe == 5
    assert 0 < error < 0.1


def test_of_two_that_take_a_timestep_neither_is_guessed() -> None:
    pipe = own(helper=randomise(TinyDenoiser(), 6))
    with pytest.raises(AttachError, match=r"several modules that take a timestep \(brain, helper\)") as caught:
        fs.accelerate(pipe, policy())
    assert "fs.accelerate(module, policy, scheduler=...)" in str(caught.value)
    with fs.accelerate(pipe.brain, policy(), scheduler=pipe.scheduler, strict=True) as handle:  # the remedy
        draw(pipe)
    assert handle.record is not None
    assert handle.record.nfe == 4


@pytest.mark.parametrize("thing", [SimpleNamespace(scheduler=flow_scheduler(), reader=Words()), SimpleNamespace()])
def test_what_has_no_denoiser_is_refused(thing: Any) -> None:
    reason = "no module that takes a timestep" if hasattr(thing, "scheduler") else "has no scheduler"
    with pytest.raises(AttachError, match=reason):
        fs.accelerate(thing, policy())


def test_a_model_without_a_seam_is_computed_there_and_served_at_its_output() -> None:
    model, scheduler = randomise(Seamless(), 3), flow_scheduler()
    with torch.no_grad():
        reference = sample(model, scheduler)
        handle = fs.accelerate(model, policy("last_block"), scheduler=scheduler)
        with handle, pytest.warns(ForeseerWarning, match="no boundary between blocks and head of Seamless"):
            drawn = sample(model, scheduler)
        assert torch.equal(drawn, reference)
        assert handle.record is not None
        assert handle.record.nfe == STEPS
        assert "site='output'" in handle.record.failed_open[0].reason
        with fs.accelerate(model, policy("output"), scheduler=scheduler, strict=True) as handle:
            sample(model, scheduler)
    assert handle.record is not None
    assert handle.record.nfe == 4
