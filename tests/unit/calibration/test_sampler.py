"""The sampler matrix reproduces real runs, scheduler by scheduler."""

import diffusers
import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.calibration.record import record_run
from foreseer.calibration.sampler import SamplerError
from tests.support.loop_pipeline import LoopPipeline

STEPS = 12
DETERMINISTIC = {
    "FlowMatchEuler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "DPM-Solver++ 2M": diffusers.DPMSolverMultistepScheduler,
    "DPM-Solver++ 2M flow": lambda: diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction"
    ),
    "UniPC": diffusers.UniPCMultistepScheduler,
    "UniPC flow": lambda: diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    ),
    "DDIM": lambda: diffusers.DDIMScheduler(clip_sample=False),
    "DDIM, v prediction": lambda: diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
    "Euler": diffusers.EulerDiscreteScheduler,
    "Heun": diffusers.HeunDiscreteScheduler,
    "DEIS": diffusers.DEISMultistepScheduler,
    "PNDM": diffusers.PNDMScheduler,
}


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_matrix_reproduces_a_real_run_to_rounding(name):
    pipe = LoopPipeline(DETERMINISTIC[name]())
    with record_run(pipe) as trajectory:
        start_generator = torch.Generator().manual_seed(4)
        final = pipe("a word", STEPS, generator=start_generator).images
    noise = torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(4))
    noise = noise * getattr(pipe.scheduler, "init_noise_sigma", 1.0)
    matrix = fs.sampler_matrix(trajectory.scheduler)
    known = np.stack([noise.reshape(-1).numpy(), *(one.numpy() for one in trajectory.outputs)]).astype(np.float64)
    found = matrix[-1] @ known
    expected = final.reshape(-1).double().numpy()
    scale = (np.abs(matrix[-1])[:, None] * np.abs(known)).sum(0).max()
    assert matrix.shape == (len(trajectory.outputs) + 1,) * 2
    assert np.abs(found - expected).max() <= 2e-5 * scale
    assert np.allclose(matrix[0], np.eye(len(matrix))[0])
    assert not np.any(np.triu(matrix, 1))


@pytest.mark.parametrize("name", ["FlowMatchEuler", "DPM-Solver++ 2M flow", "UniPC flow", "DDIM", "Euler", "DEIS"])
def test_a_run_that_begins_late_has_its_own_matrix(name):
    scheduler, first = DETERMINISTIC[name](), 5
    scheduler.set_timesteps(STEPS)
    matrix = fs.sampler_matrix(scheduler, first_step=first)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    values = torch.randn(STEPS - first + 1, 1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    sample = values[0]
    for output, t in zip(values[1:], scheduler.timesteps[first:], strict=True):
        sample = scheduler.step(output, t, sample, return_dict=False)[0]
    assert matrix.shape == (STEPS - first + 1,) * 2
    expected = np.tensordot(matrix[-1], values.double().numpy(), 1)
    scale = np.tensordot(np.abs(matrix[-1]), np.abs(values.double().numpy()), 1).max()
    assert np.abs(sample.double().numpy() - expected).max() <= 2e-5 * scale
    with pytest.raises(SamplerError, match="no step from 12"):
        fs.sampler_matrix(scheduler, first_step=STEPS)


def test_euler_flow_matching_weights_are_the_lengths_of_the_steps():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    matrix = fs.sampler_matrix(scheduler, STEPS)
    scheduler.set_timesteps(STEPS)
    assert matrix[-1, 1:] == pytest.approx(np.diff(scheduler.sigmas.numpy()), abs=1e-6)
    assert matrix[-1, 0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "scheduler",
    [diffusers.DDPMScheduler(clip_sample=False), diffusers.EulerAncestralDiscreteScheduler()],
    ids=["DDPM", "Euler ancestral"],
)
def test_stochastic_schedulers_are_refused_with_the_way_out(scheduler):
    with pytest.raises(SamplerError, match=r"stochastic.*kernel"):
        fs.sampler_matrix(scheduler, STEPS)


def test_a_scheduler_whose_last_timestep_begins_no_step():
    with pytest.raises(SamplerError, match=r"stochastic.*kernel"):
        fs.sampler_matrix(diffusers.SCMScheduler(), 2)
    scheduler = diffusers.SCMScheduler()
    scheduler.set_timesteps(1, intermediate_timesteps=None)
    angle = scheduler.timesteps[0].double().numpy()
    assert fs.sampler_matrix(scheduler) == pytest.approx(
        np.array([[1.0, 0.0], [np.cos(angle), -np.sin(angle)]]), abs=1e-6
    )


def test_a_clipping_scheduler_is_not_linear():
    with pytest.raises(SamplerError, match="not linear"):
        fs.sampler_matrix(diffusers.DDIMScheduler(clip_sample=True), STEPS)


def test_the_scheduler_given_is_left_as_it_was():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(7)
    timesteps = scheduler.timesteps
    fs.sampler_matrix(scheduler)
    assert scheduler.timesteps is timesteps
    assert scheduler.step_index is None


def test_a_scheduler_without_steps_is_refused():
    with pytest.raises(SamplerError, match="set_timesteps"):
        fs.sampler_matrix(diffusers.EulerDiscreteScheduler())
