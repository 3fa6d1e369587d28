"""Least errors of rows: exact where outputs mix channels, never above any rows."""

import diffusers
import numpy as np
import pytest

import foreseer as fs
from foreseer.calibration.ceilings import ceilings
from foreseer.errors import CalibrationError
from foreseer.kernel.expected import final_errors, step_errors
from tests.support.loop_pipeline import LoopPipeline
from tests.unit.calibration.test_mix_channels import NFE, PROMPTS, STEPS, TokenDenoiser, TokenPipeline


class TurningDenoiser(TokenDenoiser):
    """Turns the channels of its input, and does nothing else: every output mixes the first one's channels."""

    def forward(self, hidden_states, timestep, words, return_dict=False):
        turned = super().forward(hidden_states, timestep, words)[0]
        return (turned + words - 0.2 * (hidden_states @ self.first).tanh(),)


def test_matrices_are_exact_where_each_output_mixes_the_channels_of_the_first():
    pipe = TokenPipeline()
    pipe.transformer = TurningDenoiser().eval().requires_grad_(False)
    kernel = fs.calibrate(pipe, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0)
    plan = fs.learned(kernel, nfe=NFE).compile(kernel.grid)
    mixed = fs.mix_channels(pipe, fs.rollout(pipe, kernel, PROMPTS[:3], nfe=NFE), PROMPTS, held_out=1)
    found = ceilings(pipe, [plan, mixed], PROMPTS, held_out=1)
    skipped = list(found.skipped_steps)
    assert skipped == list(plan.forecast_steps)
    assert found.mixed_steps == plan.forecast_steps
    assert found.mixing.step_errors.max() < 1e-3 < 0.02 < found.scalar.step_errors[skipped].max()
    assert not found.scalar.step_errors[list(plan.computed_steps)].any()
    assert found.mixing.carried.mean < 1e-3 < 0.01 < found.scalar.carried.mean
    assert found.mixing.final.mean < found.scalar.final.mean < 1e-3 < found.scalar.carried.mean
    rows, corrected = (error.mean for error in found.measured)
    assert corrected < 0.1 * rows


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_no_kernel_rows_are_better_than_the_best_scalars(guidance):
    pipe = LoopPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))
    options = {"num_inference_steps": 12, "sensitivity_prompts": 0, "guidance_scale": guidance}
    prompts = [f"prompt {index}" for index in range(6)]
    kernel = fs.calibrate(pipe, prompts[:4], **options)
    judge = fs.calibrate(pipe, prompts[4:], seed=4, **options)
    rows = fs.forecast.KernelRows(kernel)
    plan = fs.Policy(fs.schedule.Explicit((0, 2, 5, 8), of=12), rows).compile(kernel.grid)
    assert len(plan.branch_rows) == (0 if guidance == 1.0 else 2)
    found = ceilings(pipe, [plan], prompts, held_out=2, guidance_scale=guidance)
    expected = np.sqrt(np.mean(step_errors(judge, plan.rows, plan.branch_rows) ** 2, axis=0))
    skipped = list(found.skipped_steps)
    assert np.all(found.scalar.step_errors[skipped] <= 1.02 * expected[skipped])
    carried = final_errors(judge, plan.rows, plan.branch_rows) / np.sqrt(judge.final_squares)
    assert 0 < found.scalar.carried.mean < 1.1 * np.sqrt(np.mean(carried**2))
    # 16 tokens for matrices of 24 channels: they overfit, and held-out prompts keep the scalars
    assert len(found.mixed_steps) < len(skipped)
    assert np.all(found.mixing.step_errors <= found.scalar.step_errors * (1 + 1e-9))


@pytest.mark.usefixtures("as_users_call")
def test_plans_that_cannot_be_compared_are_refused():
    pipe = TokenPipeline()
    short, long = (
        fs.Policy(fs.schedule.Uniform(interval=3), fs.forecast.Reuse()).compile(fs.Grid.uniform(steps))
        for steps in (8, 10)
    )
    with pytest.raises(CalibrationError, match="different grids"):
        ceilings(pipe, [short, long], PROMPTS)
    with pytest.raises(CalibrationError, match="expected a list of plans"):
        ceilings(pipe, short, PROMPTS)
    every = fs.Policy(fs.schedule.Uniform(interval=1), fs.forecast.Reuse()).compile(fs.Grid.uniform(8))
    with pytest.raises(CalibrationError, match="every step"):
        ceilings(pipe, [every], PROMPTS)
