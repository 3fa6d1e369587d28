import diffusers
import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.record import gram, record_run
from foreseer.kernel import KernelError
from tests.calibration.conftest import STEPS, TRAINING
from tests.loop_pipeline import LoopPipeline, sample


def recorded(pipe, prompt, seed, steps=STEPS, **options):
    with record_run(pipe) as trajectory:
        sample(pipe, prompt, seed, num_inference_steps=steps, **options)
    return trajectory


def test_grams_are_the_inner_products_of_the_outputs(loop, kernel):
    outputs = torch.stack(recorded(loop, TRAINING[2], 2).outputs).double().numpy()
    assert kernel.grams[2] == pytest.approx(outputs @ outputs.T / outputs.shape[1], rel=1e-12)
    assert kernel.prompts == len(TRAINING)
    assert kernel.sampler is not None
    assert "step" not in vars(loop.scheduler)


def test_long_features_are_multiplied_in_chunks(monkeypatch):
    monkeypatch.setattr("foreseer.calibration.record.CHUNK", 7)
    tensors = list(torch.randn(4, 100, generator=torch.Generator().manual_seed(0)))
    exact = torch.stack(tensors).double().numpy()
    assert gram(tensors, tensors) == pytest.approx(exact @ exact.T / 100, rel=1e-12)


def test_guidance_is_recorded_as_what_the_sampler_was_given(loop):
    guided = fs.calibrate(loop, TRAINING[:1], num_inference_steps=6, guidance_scale=3.0)
    outputs = torch.stack(recorded(loop, TRAINING[0], 0, 6, guidance_scale=3.0).outputs).double().numpy()
    assert guided.grams[0] == pytest.approx(outputs @ outputs.T / outputs.shape[1], rel=1e-12)
    assert guided.provenance["guidance"] == "3.0"


def test_two_shares_add_up_to_the_whole(loop, kernel):
    first = fs.calibrate(loop, TRAINING[:3], num_inference_steps=STEPS)
    rest = fs.calibrate(loop, TRAINING[3:], num_inference_steps=STEPS, seed=3)
    merged = first.merge(rest)
    assert merged.grams == pytest.approx(kernel.grams, rel=1e-12)
    assert merged.final_squares == pytest.approx(kernel.final_squares)
    assert merged.pooled == pytest.approx(kernel.pooled)
    with pytest.raises(KernelError, match="guidance"):
        first.merge(fs.calibrate(loop, TRAINING[:1], num_inference_steps=STEPS, guidance_scale=2.0))


def test_an_interrupted_calibration_goes_on_where_it_was(loop, kernel, tmp_path):
    file = tmp_path / "partial.kernel.safetensors"

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fs.calibrate(loop, TRAINING, num_inference_steps=STEPS, checkpoint=file, progress=stop)
    assert fs.Kernel.load(file).prompts == 3
    seen = []
    again = fs.calibrate(
        loop, TRAINING, num_inference_steps=STEPS, checkpoint=file, progress=lambda done, total: seen.append(done)
    )
    assert seen == list(range(3, 13))  # four prompts counted again: on them the response is measured
    assert np.array_equal(again.grams, kernel.grams)
    with pytest.raises(CalibrationError, match="another calibration"):
        fs.calibrate(loop, TRAINING[:4], num_inference_steps=STEPS, checkpoint=file)


def test_no_prompt_and_no_finite_output_are_refused(loop):
    with pytest.raises(CalibrationError, match="list of prompts"):
        fs.calibrate(loop, [])
    broken = LoopPipeline(diffusers.FlowMatchEulerDiscreteScheduler())
    with torch.no_grad():
        broken.transformer.turn.fill_(float("nan"))
    with pytest.raises((KernelError, ValueError), match=r"finite|positive"):
        fs.calibrate(broken, TRAINING[:1], num_inference_steps=4)


def test_a_stochastic_scheduler_still_gives_a_kernel():
    pipe = LoopPipeline(diffusers.EulerAncestralDiscreteScheduler(num_train_timesteps=1000))
    kernel = fs.calibrate(pipe, TRAINING[:2], num_inference_steps=8)
    assert kernel.sampler is None
    assert "stochastic" in kernel.provenance["sampler"]
    plan = fs.Policy(fs.schedule.Uniform(interval=2), fs.forecast.KernelRows(kernel)).compile(kernel.grid)
    assert plan.nfe == 4
