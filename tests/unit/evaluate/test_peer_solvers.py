"""Solvers use a pipeline's own noise levels and have their order of convergence."""

import diffusers
import numpy as np
import pytest
import torch

from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.solvers import SolverSwap, build
from tests.support.loop_pipeline import LoopPipeline

SPREAD = 0.5  # standard deviation of Gaussian data: the flow then has a closed form


def velocity(sample, level):
    """Noise minus data, as expected from a sample at a noise level."""
    return sample * (level - (1 - level) * SPREAD**2) / ((1 - level) ** 2 * SPREAD**2 + level**2)


def end_of(scheduler, steps):
    """Where the flow takes the sample 1.0; the truth is ``SPREAD``."""
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=0.8)
    sample, calls = torch.ones(1, 1, 1, 1), 0
    for time in scheduler.timesteps:
        sample = scheduler.step(velocity(sample, time / 1000), time, sample, return_dict=False)[0]
        calls += 1
    return float(sample), calls


@pytest.fixture
def own():
    return diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


@pytest.mark.parametrize("name", ["dpm-solver", "unipc", "heun"])
def test_a_solver_uses_the_pipelines_levels(own, name):
    made = build(name, own)
    made.set_timesteps(sigmas=np.linspace(1.0, 1 / 9, 9), mu=0.8)
    own.set_timesteps(sigmas=np.linspace(1.0, 1 / 9, 9), mu=0.8)
    levels = list(dict.fromkeys(made.sigmas.tolist()))
    assert np.allclose(levels, own.sigmas, atol=2e-6)
    assert torch.equal(torch.unique(made.timesteps), torch.unique(own.timesteps))
    assert len(made.timesteps) == (17 if name == "heun" else 9)
    assert made.config.use_dynamic_shifting


@pytest.mark.parametrize("name", ["dpm-solver", "unipc", "heun"])
def test_a_solver_beats_euler_at_equal_evaluations_and_closes_in_faster(own, name):
    made = build(name, own)
    errors = {}
    for steps in (8, 16, 32):
        end, calls = end_of(made, steps)
        euler, _ = end_of(own, calls)
        errors[steps] = abs(end - SPREAD), abs(euler - SPREAD)
    assert errors[8][0] < errors[8][1]
    assert errors[16][0] < 0.6 * errors[16][1]
    assert errors[32][0] < 0.3 * errors[32][1]
    assert errors[32][0] < errors[8][0] / 10 < errors[32][1]


@pytest.mark.parametrize("name", ["dpm-solver", "unipc", "heun"])
def test_a_second_run_does_not_depend_on_the_first(own, name):
    made = build(name, own)
    first = end_of(made, 10)
    made.set_timesteps(sigmas=np.linspace(1.0, 0.1, 10), mu=0.8)
    made.step(torch.ones(1, 1, 1, 1), made.timesteps[0], torch.ones(1, 1, 1, 1))
    assert end_of(made, 10) == first


def test_other_schedulers_are_made_from_the_pipelines_configuration():
    own = diffusers.DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    for name, kind in [("dpm-solver", "DPMSolverMultistep"), ("unipc", "UniPCMultistep"), ("heun", "HeunDiscrete")]:
        made = build(name, own)
        assert type(made).__name__.startswith(kind)
        assert (made.config.beta_schedule, made.config.prediction_type) == ("scaled_linear", "v_prediction")


def test_rising_levels_are_refused():
    own = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    with pytest.raises(PeerError, match="invert_sigmas"):
        build("unipc", own)


def test_the_same_scheduler_comes_back_after_an_exception():
    pipe = LoopPipeline(diffusers.FlowMatchEulerDiscreteScheduler())
    own, before = pipe.scheduler, dict(vars(pipe))
    swap = SolverSwap("unipc", "UniPC", 4, solver="unipc")
    with pytest.raises(TypeError), swap.attached(pipe):  # noqa: PT012
        assert pipe.scheduler is not own
        pipe.scheduler.step()
    assert pipe.scheduler is own
    assert vars(pipe) == before
