"""The bundled pipeline under the engine: real weights, real images."""

import inspect
import json

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

import foreseer as fs
from foreseer import zoo
from foreseer.evaluate.sampling.timing import time_loop
from foreseer.methods import METHODS
from foreseer.pipelines import split_sampling

STEPS = 12


@pytest.fixture(scope="module")
def pipe(emoji):
    return emoji


@pytest.fixture(scope="module")
def options():
    prompts, given = split_sampling(zoo.sampling(zoo.path()))
    return {**given, "num_inference_steps": STEPS, "prompt": prompts[0]}


def draw(pipe, options, seed=0, **changed):
    return pipe(**{**options, **changed}, output_type="np", generator=torch.manual_seed(seed)).images[0]


@pytest.mark.parametrize("site", ["output", "last_block"])
def test_computing_every_step_is_bit_identical(pipe, options, site):
    reference = draw(pipe, options)
    policy = fs.Policy(fs.schedule.Explicit(range(STEPS)), fs.forecast.Reuse(), site=site)
    with fs.accelerate(pipe, policy, strict=True) as handle:
        image = draw(pipe, options)
    assert np.array_equal(image, reference)
    assert handle.record.nfe == STEPS


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if one.forecaster is not None and not one.gate])
@pytest.mark.parametrize("site", ["output", "last_block"])
def test_every_method_stays_near_the_reference_and_is_repeatable(pipe, options, name, site):
    reference = draw(pipe, options)
    policy = fs.methods.find(name).policy(STEPS, 8, site)
    with fs.accelerate(pipe, policy, strict=True) as handle:
        first, second = draw(pipe, options), draw(pipe, options)
    assert handle.record.nfe == 8
    assert np.array_equal(first, second)
    error = np.sqrt(np.mean((first - reference) ** 2))
    assert 0 < error < 0.25 * np.std(reference)


def test_guidance_keeps_two_branches(pipe, options):
    policy = fs.methods.find("reuse").policy(STEPS, 6)
    with fs.accelerate(pipe, policy, strict=True) as handle:
        draw(pipe, options, true_cfg_scale=3.0, negative_prompt="")
    assert len(handle.record.computed) == 2
    assert handle.record.forward_passes == 12
    assert handle.record.nfe == 6


def test_watching_the_loop_leaves_no_trace(pipe, options):
    with time_loop(pipe) as loop:
        draw(pipe, options)
    assert loop.steps == STEPS
    assert loop.seconds > 0
    assert "step" not in vars(pipe.scheduler)
    assert not pipe.transformer._forward_pre_hooks


def test_bundle_fits_its_size_and_names_its_licence():
    folder = zoo.path()
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert total <= 25_000_000
    assert (folder / "LICENSE").is_file()
    assert "Fluent Emoji" in (folder / "README.md").read_text()
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "FluxPipeline"


def test_the_plain_call_has_the_models_size_text_length_and_steps(pipe):
    asked = []
    image = pipe("a red apple on a blue background", num_inference_steps=1).images[0]
    pipe(
        "a red apple on a blue background",
        sigmas=[1.0],
        callback_on_step_end=lambda own, step, timestep, tensors: asked.append(tensors["prompt_embeds"].shape) or {},
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    assert image.size == (64, 64)
    assert [shape[1] for shape in asked] == [16]
    assert inspect.signature(pipe.__call__).parameters["num_inference_steps"].default == 50
    assert pipe("a red apple on a blue background", None, None, None, 1.0, 32, num_inference_steps=1).images[
        0
    ].size == (64, 32)


def test_a_saved_copy_loads_as_the_pipeline_of_diffusers(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert type(FluxPipeline.from_pretrained(tmp_path)) is FluxPipeline


def test_a_name_that_is_not_bundled_is_refused(as_users_call):
    for ask in (zoo.path, zoo.load, zoo.kernel_path, zoo.plan_path):
        with pytest.raises(fs.ForeseerError, match="No bundled pipeline is called 'flux': expected one of emoji"):
            ask("flux")
