"""A recorded run is the run that the pipeline makes by itself."""

import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.record import record_run
from tests.support.pipelines import build, randomise


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_s_eta_and_generator_are_passed_on(eta):
    """Pipelines look for them in the signature of the scheduler's step."""
    tiny = build("stable_diffusion")
    plain = tiny.run(steps=4, eta=eta)
    with record_run(tiny.pipe):
        recorded = tiny.run(steps=4, eta=eta)
    assert torch.equal(recorded, plain)


BLOCKS = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}


class Drawing(DiffusionPipeline):
    """Draws without a prompt, and always decodes: its call has no output type."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, num_inference_steps=8, generator=None):
        sample = torch.randn(1, 3, 8, 8, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for timestep in self.scheduler.timesteps:
            sample = self.scheduler.step(self.unet(sample, timestep).sample, timestep, sample).prev_sample
        return {"images": sample}


def test_a_pipeline_without_output_type_is_calibrated():
    unet = UNet2DModel(sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **BLOCKS)
    pipe = Drawing(randomise(unet), DDIMScheduler())
    kernel = fs.calibrate(pipe, [""], num_inference_steps=8, sensitivity_prompts=0)
    assert len(kernel.grid) == 8
    assert np.isfinite(kernel.grams).all()


def test_a_pipeline_may_copy_its_scheduler_s_attributes_and_set_them_back():
    """Panorama pipelines do, for each view."""
    tiny = build("stable_diffusion")
    with record_run(tiny.pipe) as trajectory:
        scheduler = tiny.pipe.scheduler
        scheduler.set_timesteps(4)
        kept = copy.deepcopy(vars(scheduler))
        scheduler.step(torch.zeros(1, 4, 8, 8), scheduler.timesteps[0], torch.zeros(1, 4, 8, 8))
        vars(scheduler).update(kept)
        scheduler.step(torch.zeros(1, 4, 8, 8), scheduler.timesteps[0], torch.zeros(1, 4, 8, 8))
    assert len(trajectory.outputs) == 2
    assert "step" not in vars(tiny.pipe.scheduler)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_run_that_draws_nothing_finite_is_refused_in_words(value):
    unet = UNet2DModel(sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **BLOCKS)
    pipe = Drawing(randomise(unet), DDIMScheduler(clip_sample=False))

    def spoil(module, inputs, output):
        output.sample.fill_(value)

    pipe.unet.register_forward_hook(spoil)
    with pytest.raises(CalibrationError, match="not finite"):
        fs.calibrate(pipe, [""], num_inference_steps=4, sensitivity_prompts=0)
