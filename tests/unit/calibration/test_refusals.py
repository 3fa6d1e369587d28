"""What calibration, learned policies and kernels refuse, and edges that once went wrong."""

import copy

import diffusers
import numpy as np
import pytest

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.frontier import FrontierError, trace_frontier
from foreseer.calibration.record import Trajectory, record_run
from foreseer.kernel.interpolate import resampled
from foreseer.methods.validate import expected_error
from tests.support.loop_pipeline import LoopPipeline, sample
from tests.support.pipelines import ROWS, build
from tests.unit.calibration.conftest import STEPS, TRAINING


def test_an_attached_pipeline_is_not_recorded_as_truth(loop, kernel):
    with fs.accelerate(loop, fs.methods.find("reuse").policy(STEPS, 5)):
        with pytest.raises(CalibrationError, match="detach"):
            fs.calibrate(loop, TRAINING[:1], num_inference_steps=STEPS)
        with pytest.raises(CalibrationError, match="detach"):
            fs.rollout(loop, kernel, TRAINING[:1], nfe=5)


def test_one_string_is_not_a_list_of_prompts(loop, kernel):
    assert fs.calibrate(loop, "cat", num_inference_steps=STEPS, sensitivity_prompts=0).prompts == 1  # but for a kernel
    with pytest.raises(CalibrationError, match="list of a few prompts"):
        fs.rollout(loop, kernel, "cat", nfe=5)


def test_too_few_steps_and_foreign_things_are_refused(loop):
    with pytest.raises(CalibrationError, match="num_inference_steps is 1; expected a whole number of at least 2"):
        fs.calibrate(loop, TRAINING[:1], num_inference_steps=1)
    with pytest.raises(CalibrationError, match="has no scheduler"):
        fs.calibrate(object(), TRAINING[:1])


def test_a_run_that_is_interrupted_is_not_recorded():
    """It once said only that the pipeline does not step its scheduler once per noise level."""

    def interrupt(pipe, index, _, kept):
        pipe._interrupt = index >= 4
        return kept

    tiny = build("flux")
    given = {**ROWS["flux"].arguments(1, tiny.size), "callback_on_step_end": interrupt}
    with pytest.raises(CalibrationError, match=r"took 5 scheduler steps, its grid has 8: the run ended early"):
        fs.calibrate(tiny.pipe, [""], num_inference_steps=8, sensitivity_prompts=0, **given)


def test_computing_every_step_has_no_error_and_no_spread(kernel):
    found = expected_error(kernel, range(STEPS), 1e-6)
    assert (found.mean, found.spread, found.worst) == (0.0, 0.0, 0.0)
    assert fs.learned(kernel, nfe=STEPS).compile(kernel.grid).nfe == STEPS


@pytest.mark.parametrize("nfe", [9.5, "9", 0])
def test_a_budget_is_a_whole_number(kernel, as_users_call, nfe):
    with pytest.raises(fs.ForeseerError):
        fs.learned(kernel, nfe=nfe)


def test_a_stochastic_scheduler_has_no_expected_final_error():
    pipe = LoopPipeline(diffusers.EulerAncestralDiscreteScheduler())
    kernel = fs.calibrate(pipe, TRAINING[:2], num_inference_steps=8)
    with pytest.raises(FrontierError, match="deterministic"):
        trace_frontier(kernel, 5)
    with pytest.raises(fs.ForeseerError, match="stochastic"):
        fs.learned(kernel, max_error=0.1)


def test_pooled_moments_cannot_be_written_to(kernel):
    with pytest.raises(ValueError, match="read-only"):
        kernel.pooled[0, 0] = 1.0


def test_a_kernel_can_be_copied(kernel):
    again = copy.deepcopy(kernel)
    assert np.array_equal(again.grams, kernel.grams)
    assert again.grid == kernel.grid


@pytest.mark.parametrize(
    "make",
    [
        lambda: diffusers.DDIMScheduler(clip_sample=False),
        lambda: diffusers.EulerDiscreteScheduler(),  # noqa: PLW0108 - one of two makers
    ],
    ids=["DDIM", "Euler"],
)
def test_final_weights_are_carried_to_another_grid(make):
    kernel = fs.calibrate(LoopPipeline(make()), TRAINING[:1], num_inference_steps=50)
    there = make()
    there.set_timesteps(20)
    grid = fs.Grid.from_scheduler(there)
    truth = fs.sampler_matrix(there)[-1, 1:]
    carried = kernel.on(grid).final_weights
    assert np.linalg.norm(carried - truth) < 0.25 * np.linalg.norm(truth)


def test_an_interpolated_kernel_knows_the_final_error(kernel):
    assert kernel.on(resampled(kernel.grid, 14)).has_final_error


def test_a_scheduler_with_a_step_of_its_own_keeps_it():
    pipe = LoopPipeline(diffusers.FlowMatchEulerDiscreteScheduler())
    own = pipe.scheduler.step
    pipe.scheduler.step = own
    with record_run(pipe):
        sample(pipe, "a word", 0, num_inference_steps=4)
    assert vars(pipe.scheduler)["step"] == own


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sensitivity_prompts": -1}, "sensitivity_prompts is -1"),
        ({"sensitivity_prompts": "x"}, "sensitivity_prompts is 'x'"),
        ({"num_inference_steps": "many"}, "num_inference_steps is 'many'"),
        ({"num_inference_steps": 1}, "num_inference_steps is 1"),
        ({"generator": None}, "prompts and seeds are given on their own"),
    ],
    ids=str,
)
def test_options_of_a_wrong_kind_are_named(loop, as_users_call, wrong, words):
    with pytest.raises(fs.ForeseerError, match=words):
        fs.calibrate(loop, ["words"], **{"num_inference_steps": 4, **wrong})


def test_a_first_step_before_the_run_is_refused(as_users_call):
    for wrong in (-1, 1.5, None):
        with pytest.raises(fs.ForeseerError, match="first_step is"):
            fs.sampler_matrix(diffusers.FlowMatchEulerDiscreteScheduler(), 8, first_step=wrong)


def test_a_scheduler_that_cannot_be_calibrated_on_is_refused_with_a_remedy():
    scheduler = diffusers.RePaintScheduler()
    scheduler.set_timesteps(20, jump_length=2)
    with pytest.raises(CalibrationError, match="never goes back to more noise, such as Euler or DDIM"):
        _ = Trajectory(scheduler=scheduler).grid
    with pytest.raises(CalibrationError, match="no step with its own scheduler"):
        _ = Trajectory().grid
