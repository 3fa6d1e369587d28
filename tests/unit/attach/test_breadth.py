"""Pipelines that are built in other ways than most: their parts, their calls, their schedulers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.calibration.sampler import SamplerError, sampler_matrix
from tests.support.attaching import STEPS, TinyDenoiser, flow_scheduler, policy
from tests.support.loop_pipeline import LoopPipeline
from tests.support.pipelines import randomise


class Control(nn.Module):
    """Called at each step beside the denoisers, and none of them."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return 0.01 * x


class TwoNetworks:
    """Guides by a second network of the first one's class, with another name."""

    def __init__(self) -> None:
        self.scheduler = flow_scheduler()
        self.transformer = randomise(TinyDenoiser(), 5)
        self.unconditional_transformer = randomise(TinyDenoiser(), 6)
        self.controlnet = Control()

    @torch.no_grad()
    def __call__(self) -> Tensor:
        x = torch.ones(1, 5, 4)
        self.scheduler.set_timesteps(STEPS)
        for t in self.scheduler.timesteps:
            given = x + self.controlnet(x, t.expand(1))
            velocity = 2 * self.transformer(given, t.expand(1)) - self.unconditional_transformer(given, t.expand(1))
            x = self.scheduler.step(velocity, t, x).prev_sample
        return x


def test_all_networks_of_the_denoisers_class_are_attached_and_the_others_named() -> None:
    pipe = TwoNetworks()
    with fs.accelerate(pipe, policy(), strict=True) as handle:
        pipe()
        assert [pipe.transformer.calls, pipe.unconditional_transformer.calls] == [STEPS // 2] * 2
        assert handle.record.calls == 2 * STEPS
        assert handle.record.unattached == ("controlnet",)
        assert "controlnet" in handle.summary()


class Late(LoopPipeline):
    """Begins at a later step, unknown to its scheduler; one option's default is not None."""

    seen: Any = ()

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        num_inference_steps: int = 8,
        generator: torch.Generator | None = None,
        instruction: str | None = "rewrite the prompt",
        output_type: str = "latent",
    ) -> Any:
        self.seen = (*self.seen, instruction)
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(1, 4, 24, generator=generator)
        for t in self.scheduler.timesteps[2:]:
            output = self.transformer(x, timestep=t, words=torch.ones_like(x))[0]
            x = self.scheduler.step(output, t, x, return_dict=False)[0]
        return SimpleNamespace(images=x)


@pytest.mark.parametrize("kind", [diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler])
def test_a_run_that_begins_late_is_calibrated_with_the_call_as_given(kind: Any) -> None:
    pipe = Late(kind())
    kernel = fs.calibrate(pipe, ["a"], num_inference_steps=8, sensitivity_prompts=0, instruction=None)
    assert len(kernel.grid) == 6
    assert pipe.seen == (None,)
    with fs.accelerate(pipe, kernel, nfe=3) as handle:
        pipe("a")
        assert handle.record.nfe == 3


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("late", [0, 2])
def test_a_scaled_timestep_that_equals_one_of_the_schedulers_own(inverted: bool, late: int) -> None:
    """1000 / 1000 is the last timestep of a grid from 1000 to 1."""
    network = randomise(TinyDenoiser(), 5)
    scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=inverted)
    with torch.no_grad(), fs.accelerate(network, policy(), scheduler=scheduler, strict=True) as handle:
        if inverted:
            scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS).tolist())
            scheduler.set_begin_index(late)
        else:
            scheduler.set_timesteps(STEPS)
        x = torch.ones(1, 5, 4)
        for t in scheduler.timesteps[late:]:
            x = scheduler.step(network(x, (t / 1000).expand(1)), t, x).prev_sample
    assert handle.record.computed == {"call 1": list(range(late, STEPS, 2))}


def test_a_rising_timestep_that_begins_with_the_schedulers_last() -> None:
    """Networks that get 1 - t begin with 0, which is the last timestep of a scheduler down to 0."""
    network = randomise(TinyDenoiser(), 5)
    scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.sigma_min = 0.0
    with torch.no_grad(), fs.accelerate(network, policy(), scheduler=scheduler, strict=True) as handle:
        scheduler.set_timesteps(STEPS)
        x = torch.ones(1, 5, 4)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, (1 - t / 1000).expand(1)), t, x).prev_sample
    assert handle.record.computed == {"call 1": list(range(0, STEPS, 2))}


class Blocks(LoopPipeline):
    """A call with names that only the blocks list, as a modular pipeline's."""

    blocks = SimpleNamespace(
        inputs=[SimpleNamespace(name=name, default=None) for name in ("prompt", "num_inference_steps", "generator")]
    )

    def __call__(self, state: Any = None, output: Any = None, **inputs: Any) -> Any:
        return super().__call__(**inputs)


def test_a_modular_pipeline_is_calibrated() -> None:
    kernel = fs.calibrate(Blocks(flow_scheduler()), ["a"], num_inference_steps=6, sensitivity_prompts=0)
    assert len(kernel.grid) == 6
    with pytest.raises(fs.ForeseerError, match="takes no height"):
        fs.calibrate(Blocks(flow_scheduler()), ["a"], num_inference_steps=6, sensitivity_prompts=0, height=8)


class Batched(diffusers.FlowMatchEulerDiscreteScheduler):
    """Reads one timestep per picture, so that it needs a dimension."""

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        return super().step(model_output, timestep[0], sample, **options)


class Learned(diffusers.FlowMatchEulerDiscreteScheduler):
    """Wants more of the network's output than the sample's shape."""

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        raise TypeError("NoneType and int")


def test_schedulers_that_need_other_tensors() -> None:
    assert np.array_equal(sampler_matrix(Batched(), 5), sampler_matrix(diffusers.FlowMatchEulerDiscreteScheduler(), 5))
    with pytest.raises(SamplerError, match="cannot step on unit vectors"):
        sampler_matrix(Learned(), 5)
