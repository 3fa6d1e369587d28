"""Rollouts weigh the run's first sample, which the network receives at step 0."""

from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.calibration.replay import run_plan
from foreseer.plan.mixing import START
from foreseer.runtime.branch import first_sample
from tests.support.loop_pipeline import SIZE, LoopPipeline, SmoothDenoiser
from tests.unit.calibration.conftest import STEPS, TRAINING
from tests.unit.calibration.test_learning import measured_error
from tests.unit.calibration.test_mix_channels import PROMPTS, TokenPipeline

NFE = 5


@pytest.fixture(scope="module")
def plan(loop, kernel):
    return fs.rollout(loop, kernel, TRAINING, nfe=NFE)


@pytest.fixture
def outputs_alone(monkeypatch):
    monkeypatch.setattr("foreseer.calibration.rollout_draft.LEAST_WHOLE", np.inf)


def test_it_comes_nearer_than_rows_over_outputs_alone(loop, kernel, plan, outputs_alone):
    alone = fs.rollout(loop, kernel, TRAINING, nfe=NFE)
    assert alone.start_row is None
    assert plan.computed_steps == alone.computed_steps
    assert np.flatnonzero(plan.start_row).tolist() == list(plan.forecast_steps)
    assert measured_error(loop, plan) < measured_error(loop, alone)


def test_the_last_forecasts_are_those_of_the_rows_and_the_first_sample(loop, plan):
    found = run_plan(loop, plan, TRAINING[0], 0, {"num_inference_steps": STEPS})
    outputs = found.trajectory.outputs
    assert torch.equal(found.start, found.trajectory.start.reshape(-1))
    for step in plan.forecast_steps:
        expected = sum(float(plan.rows[step, j]) * outputs[j] for j in plan.computed_steps)
        assert torch.allclose(outputs[step], expected + float(plan.start_row[step]) * found.start, atol=1e-5)


def test_branches_have_it_in_their_sum(loop):
    guided = fs.calibrate(loop, TRAINING, num_inference_steps=STEPS, guidance_scale=3.0)
    plan = fs.rollout(loop, guided, TRAINING, nfe=NFE, guidance_scale=3.0)
    found = run_plan(loop, plan, TRAINING[0], 0, {"num_inference_steps": STEPS, "guidance_scale": 3.0})
    step = plan.forecast_steps[-1]
    expected = float(plan.start_row[step]) * found.start
    for name, coefficient in zip(plan.branch_rows, (3.0, -2.0), strict=True):
        rows = plan.branch_rows[name]
        expected = expected + coefficient * sum(
            float(rows[step, j]) * found.outputs[name, j][0].reshape(-1) for j in plan.computed_steps
        )
    assert torch.allclose(found.trajectory.outputs[step], expected, atol=1e-4)


def test_a_rollout_broken_off_goes_on(loop, kernel, plan, tmp_path):
    class BrokenOffError(Exception):
        pass

    def end(done, total):
        if done > total - 10:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        fs.rollout(loop, kernel, TRAINING, nfe=NFE, checkpoint=tmp_path, progress=end)
    assert fs.rollout(loop, kernel, TRAINING, nfe=NFE, checkpoint=tmp_path) == plan


def test_a_network_that_does_not_receive_it_has_rows_over_outputs_alone(loop, kernel, plan, monkeypatch):
    monkeypatch.setattr("foreseer.calibration.replay.first_sample", lambda inputs, output: None)
    assert fs.rollout(loop, kernel, TRAINING, nfe=NFE).start_row is None


class NegativePipeline(LoopPipeline):
    """Its network gives the negative of what the scheduler is given, as HiDream's and Lumina's do."""

    class Negative(SmoothDenoiser):
        def forward(self, *args, **kwargs):
            return (-super().forward(*args, **kwargs)[0],)

    def __init__(self, scheduler):
        super().__init__(scheduler)
        self.transformer = self.Negative().eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=20, generator=None, output_type="latent"):
        self.scheduler.set_timesteps(num_inference_steps)
        words = torch.randn(1, 4, SIZE, generator=torch.Generator().manual_seed(len(prompt)))
        sample = torch.randn(1, 4, SIZE, generator=generator)
        for t in self.scheduler.timesteps:
            output = -self.transformer(sample, timestep=t, words=words)[0]
            sample = self.scheduler.step(output, t, sample, return_dict=False)[0]
        return SimpleNamespace(images=sample)


def test_where_the_sign_is_changed_after_the_network_rows_are_over_outputs_alone():
    """A weight fitted on what the scheduler is given has the wrong sign at the network."""
    pipe = NegativePipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))
    kernel = fs.calibrate(pipe, TRAINING, num_inference_steps=STEPS)
    assert fs.rollout(pipe, kernel, TRAINING, nfe=NFE).start_row is None


def test_a_sample_reaches_the_scheduler_through_guidance_alone(loop, plan):
    """Through the output itself and classifier-free guidance, not through another sign or size."""
    found = run_plan(loop, plan, TRAINING[0], 0, {"num_inference_steps": STEPS})
    assert found.carries_start
    turned = replace(found, outputs={key: tuple(-each for each in out) for key, out in found.outputs.items()})
    assert not turned.carries_start
    halved = replace(found, outputs={key: tuple(each / 2 for each in out) for key, out in found.outputs.items()})
    assert not halved.carries_start
    first, shape = next(iter(found.outputs)), (1, 4, SIZE)
    without, scale = torch.randn(shape, generator=torch.Generator().manual_seed(0)), 3.0
    conditional = (found.trajectory.outputs[0].view(shape) - (1.0 - scale) * without) / scale
    assert replace(found, outputs={first: (torch.cat([without, conditional]),)}).carries_start
    assert not replace(found, outputs={first: (torch.cat([without, -conditional]),)}).carries_start
    assert not replace(found, outputs={}).carries_start


def test_prompts_of_which_some_lack_it_have_rows_over_outputs_alone(loop, kernel, monkeypatch):
    asked = []

    def of_some(inputs, output):
        asked.append(first_sample(inputs, output))
        return asked[-1] if len(asked) % 2 else None

    monkeypatch.setattr("foreseer.calibration.replay.first_sample", of_some)
    assert fs.rollout(loop, kernel, TRAINING, nfe=NFE).start_row is None


def test_a_network_may_write_into_its_input(loop, plan, monkeypatch):
    forward = SmoothDenoiser.forward

    def spoil(self, hidden_states, timestep, words, return_dict=False):
        output = forward(self, hidden_states, timestep, words)
        hidden_states.mul_(0.5)
        return output

    expected = run_plan(loop, plan, TRAINING[0], 0, {"num_inference_steps": STEPS}).start
    monkeypatch.setattr(SmoothDenoiser, "forward", spoil)
    assert torch.equal(run_plan(loop, plan, TRAINING[0], 0, {"num_inference_steps": STEPS}).start, expected)


def test_refinement_keeps_it(loop, plan):
    refined = fs.refine(loop, plan, TRAINING[:3], held_out=1, iterations=1)
    assert np.array_equal(refined.start_row, plan.start_row)


def test_channels_of_it_are_mixed_where_held_out_prompts_have_less_error():
    pipe = TokenPipeline()
    kernel = fs.calibrate(pipe, PROMPTS, num_inference_steps=10, sensitivity_prompts=0)
    mixed = fs.mix_channels(pipe, fs.rollout(pipe, kernel, PROMPTS[:3], nfe=4), PROMPTS, held_out=1)
    sources = [segment.sources for segment in mixed.mixing.segments]
    assert any(START in each for each in sources)
    found = run_plan(pipe, mixed, PROMPTS[0], 0, {"num_inference_steps": 10})
    segment = next(each for each in mixed.mixing.segments if START in each.sources)
    step, share = segment.steps[0], segment.shares[0]
    outputs = found.trajectory.outputs
    expected = sum(float(mixed.rows[step, j]) * outputs[j] for j in mixed.computed_steps)
    expected = expected + float(mixed.start_row[step]) * found.start
    for source, matrix in zip(segment.sources, segment.matrices, strict=True):
        feature = (found.start if source == START else outputs[source]).reshape(-1, 6)
        expected = expected + float(share) * (feature @ torch.as_tensor(matrix.copy())).reshape(-1)
    assert torch.allclose(outputs[step], expected, atol=1e-4)
