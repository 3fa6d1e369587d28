import copy
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.identity import weights_of
from foreseer.calibration.record import gram, record_run
from foreseer.kernel import KernelError
from tests.support.loop_pipeline import LoopPipeline, sample
from tests.unit.calibration.conftest import STEPS, TRAINING


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
    assert guided.provenance["guidance"] == '{"guidance_scale": 3.0}'


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
    folder = tmp_path / "kept"

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fs.calibrate(loop, TRAINING, num_inference_steps=STEPS, checkpoint=folder, progress=stop)
    assert len(list(folder.iterdir())) == 3
    seen = []
    again = fs.calibrate(
        loop, TRAINING, num_inference_steps=STEPS, checkpoint=folder, progress=lambda done, total: seen.append(done)
    )
    assert seen == list(range(3, 13))  # four prompts count again: on them the sensitivity is measured
    assert np.array_equal(again.grams, kernel.grams)
    seen.clear()
    options = {"num_inference_steps": STEPS, "checkpoint": folder, "sensitivity_prompts": 0}
    fewer = fs.calibrate(loop, TRAINING[:4], progress=lambda done, total: seen.append(done), **options)
    assert seen == [4]  # a prompt that was run is not run again for another list
    assert np.array_equal(fewer.grams, kernel.grams[:4])


def other_weights(pipe):
    pipe.transformer.mix.data.mul_(1.1)


def other_scheduler(pipe):
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)


@pytest.mark.parametrize(("change", "word"), [(other_weights, "weights"), (other_scheduler, "scheduler_config")])
def test_what_was_recorded_before_a_change_is_not_taken_for_what_is_after_it(tmp_path, change, word):
    pipe = LoopPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))
    options = {"num_inference_steps": 6, "checkpoint": tmp_path / "kept", "sensitivity_prompts": 0}
    before = fs.calibrate(pipe, TRAINING[:2], **options)
    fs.rollout(pipe, before, TRAINING[:1], nfe=3, checkpoint=tmp_path / "references")
    kept = set((tmp_path / "references").glob("*.safetensors"))
    change(pipe)
    runs = []
    changed = fs.calibrate(pipe, TRAINING[:2], progress=lambda done, total: runs.append(done), **options)
    assert runs == [0, 1, 2]
    assert changed.provenance[word] != before.provenance[word]
    after = fs.calibrate(pipe, TRAINING[2:4], seed=2, num_inference_steps=6, sensitivity_prompts=0)
    with pytest.raises(KernelError, match="cannot be merged"):
        before.merge(after)
    fs.rollout(pipe, after, TRAINING[:1], nfe=3, checkpoint=tmp_path / "references")
    assert len({*(tmp_path / "references").glob("*.safetensors")} - kept) == 1  # made again


def test_what_kernels_may_differ_in_is_named(kernel):
    other = replace(kernel.subset([0]), provenance={**kernel.provenance, "dtype": "bfloat16"})
    with pytest.raises(KernelError, match="dtype 'float32', the other 'bfloat16'"):
        kernel.subset([1]).merge(other)
    assert kernel.subset([1]).merge(other, ignore_fields=["dtype"]).prompts == 2
    for unknown in ("dtype", ["dtypes"]):
        with pytest.raises(KernelError, match="expected a list out of model"):
            kernel.subset([1]).merge(other, ignore_fields=unknown)
    with pytest.raises(KernelError, match="different sampler matrices"):
        kernel.subset([1]).merge(replace(kernel.subset([0]), sampler=2.0 * kernel.sampler))


def test_a_rollout_says_with_which_guidance_it_was_made(loop, kernel):
    assert kernel.provenance["guidance"] == "{}"
    plan = fs.rollout(loop, kernel, TRAINING[:1], nfe=4, guidance_scale=2.0)
    assert plan.provenance["guidance"] == '{"guidance_scale": 2.0}'


def test_a_run_much_finer_than_the_recording_is_said_to_be_a_guess(loop):
    coarse = fs.calibrate(loop, TRAINING[:2], num_inference_steps=6, sensitivity_prompts=0)
    with fs.accelerate(loop, fs.learned(coarse, nfe=4)):
        sample(loop, "one", 7, num_inference_steps=12)  # a warning would be an error
        with pytest.warns(fs.ForeseerWarning, match=r"13 steps, .* on runs of 6: .* Calibrate with 7 steps or more"):
            sample(loop, "one", 7, num_inference_steps=13)
        sample(loop, "one", 7, num_inference_steps=14)


def test_weights_are_told_apart_by_some_of_their_numbers():
    model = nn.Linear(300, 300)
    known = weights_of([model])
    assert weights_of([copy.deepcopy(model)]) == known
    assert weights_of([copy.deepcopy(model).bfloat16()]) != known
    with torch.no_grad():
        model.weight *= 1.01
    assert weights_of([model]) != known
    assert weights_of([nn.Linear(3, 3, device="meta")])  # offloaded


def test_no_prompt_and_no_finite_output_are_refused(loop):
    with pytest.raises(CalibrationError, match="list of a few prompts"):
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
