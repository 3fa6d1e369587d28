"""A kernel of the last block: recorded inside the network, used there."""

import dataclasses

import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from tests.support.loop_pipeline import relative

STEPS = 10
OPTIONS = {"height": 64, "width": 64, "max_sequence_length": 16, "guidance_scale": 1.0}
SEEDS = (91, 92, 93)
PROMPTS = ["a red apple on a blue background", "a rocket on a white background", "a cactus on a green background"]


@pytest.fixture(scope="module")
def pipe():
    found = fs.zoo.load()
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def kernel(pipe):
    return fs.calibrate(pipe, PROMPTS, num_inference_steps=STEPS, site="last_block", sensitivity_prompts=1, **OPTIONS)


def latent(pipe, seed, **more):
    generator = torch.Generator().manual_seed(seed)
    words = "a sunflower on a red background"
    call = {**OPTIONS, "num_inference_steps": STEPS, "output_type": "latent", **more}
    return pipe(words, generator=generator, **call).images.double()


def test_it_learns_there_and_serves_there(pipe, kernel, tmp_path):
    truths = {seed: latent(pipe, seed) for seed in SEEDS}
    errors = {}
    computed = fs.learned(kernel, nfe=5).compile(kernel.grid).computed_steps
    for name, policy in {
        "learned": fs.learned(kernel, nfe=5),
        "taylor": fs.Policy(fs.schedule.Explicit(computed, of=STEPS), fs.forecast.TaylorSeer(order=2), "last_block"),
        "reuse": fs.Policy(fs.schedule.Explicit(computed, of=STEPS), fs.forecast.Reuse(), "last_block"),
    }.items():
        assert policy.site == "last_block"
        with fs.accelerate(pipe, policy, strict=True) as handle:
            errors[name] = np.mean([relative(latent(pipe, seed), truth) for seed, truth in truths.items()])
        assert handle.record.nfe == 5
    assert errors["learned"] < min(errors["taylor"], errors["reuse"])
    kernel.save(tmp_path / "inside.kernel.safetensors")
    again = fs.Kernel.load(tmp_path / "inside.kernel.safetensors")
    assert (again.site, again.sensitivity) == ("last_block", kernel.sensitivity)
    assert np.array_equal(again.final_weights, kernel.final_weights)


def test_errors_there_count_as_errors_of_the_output(kernel):
    """By hand: a relative error of the hidden state is the same relative error of the output."""
    features = np.sqrt(np.diag(kernel.pooled))
    outputs = np.sqrt(kernel.output_squares.mean(axis=0))
    assert kernel.final_weights * features == pytest.approx(kernel.sampler[-1, 1:] * outputs, rel=1e-12)
    assert kernel.remaining[0] == 1.0
    half = kernel.on(fs.Grid(kernel.grid.levels[::2]))
    assert half.output_squares.shape == (3, STEPS // 2)
    assert np.sum(half.final_weights) == pytest.approx(np.sum(kernel.final_weights), rel=0.1)
    assert kernel.subset([0]).merge(kernel.subset([1, 2])).output_squares == pytest.approx(kernel.output_squares)


def test_what_has_no_last_block_is_refused(loop, kernel, as_users_call):
    with pytest.raises(CalibrationError, match=r"site 'last_block' cannot be calibrated: no boundary"):
        fs.calibrate(loop, ["words"], num_inference_steps=4, site="last_block")
    with pytest.raises(CalibrationError, match="Unknown site 'middle'"):
        fs.calibrate(loop, ["words"], num_inference_steps=4, site="middle")
    with pytest.raises(fs.kernel.KernelError, match="squares have shape"):
        dataclasses.replace(kernel, output_squares=np.ones((2, STEPS)))
