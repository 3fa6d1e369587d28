"""Architectures with random weights run and are forecast; at full size they are the released ones."""

import diffusers
import pytest
import torch
from accelerate import init_empty_weights

import foreseer as fs
from foreseer.evaluate.architectures.meta_flops import full_cost
from foreseer.evaluate.architectures.random_models import RANDOM_MODELS
from foreseer.evaluate.architectures.random_weights import NAMES, RandomWeightsError, random_pipeline
from foreseer.evaluate.presets import load_preset
from foreseer.pipelines import call_arguments

# Billions of parameters of the released denoisers.
RELEASED = {"flux.1-dev": 11.90, "sd3.5-large": 8.06, "qwen-image": 20.43, "hunyuan-video": 12.82, "wan2.1-14b": 14.29}
SMALLER = {"image": {"height": 64, "width": 64}, "video": {"height": 32, "width": 32, "num_frames": 5}}


def sample(random, prompt="a red apple", steps=6, seed=0):
    size = SMALLER["video" if "num_frames" in random.options else "image"]
    options = {**random.options, **size, "num_inference_steps": steps}
    arguments = {**call_arguments(random.pipe, "", options), "prompt": prompt}
    output = random.pipe(**arguments, generator=torch.Generator().manual_seed(seed))
    return output.images if hasattr(output, "images") else output.frames


@pytest.mark.parametrize("name", NAMES)
def test_each_runs_and_is_forecast_at_both_sites(name):
    random = random_pipeline(name, "small", "cpu")
    reference = sample(random)
    assert torch.isfinite(reference).all()
    assert not torch.equal(sample(random, "two cats"), reference)
    for site in ("output", "last_block"):
        policy = fs.Policy(fs.schedule.Uniform(interval=2, warmup=2), fs.forecast.TaylorSeer(order=1), site=site)
        with fs.accelerate(random.pipe, policy, strict=True) as handle:
            forecast = sample(random)
        assert (handle.record.steps, handle.record.nfe, handle.record.failed_open) == (6, 4, [])
        assert 0 < (forecast - reference).norm() / reference.norm() < 1
    assert torch.equal(sample(random), reference)


def test_prompts_and_seeds_decide_and_several_pictures_differ():
    random, again = (random_pipeline("sd3.5-large", "small", "cpu") for _ in range(2))
    assert torch.equal(sample(random), sample(again))
    first, second = sample(random, ["a red apple", "two cats"])
    assert not torch.equal(first, second)
    assert "fidelity is not shown" in random.note


def test_half_precision_keeps_in_float32_what_the_class_does():
    random = random_pipeline("wan2.1-14b", "small", "cpu", torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in random.pipe.transformer.named_parameters()}
    assert kinds["scale_shift_table"] == torch.float32
    assert kinds["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert torch.isfinite(sample(random, steps=2)).all()


@pytest.mark.parametrize("name", NAMES)
def test_full_scale_is_the_released_architecture(name):
    model = RANDOM_MODELS[name]
    positions = {"pos_embed_max_size": 16} if "pos_embed_max_size" in model.config else {}  # no parameters, but slow
    with init_empty_weights():
        transformer = getattr(diffusers, model.transformer)(**{**model.config, **positions})
    parameters = sum(parameter.numel() for parameter in transformer.parameters())
    assert parameters / 1e9 == pytest.approx(RELEASED[name], rel=2e-3)


def test_operations_of_the_real_size_are_the_published_ones():
    preset = load_preset("l2p-hunyuan")
    cost = full_cost("hunyuan-video", preset.options)
    assert cost.calls == 1
    published = {name: figures["FLOPs (T)"] for name, figures in preset.published.items()}
    for name, nfe in (("reference", 50), ("steps-11", 11), ("l2p-n7", 9)):
        assert nfe * cost.flops / 1e12 == pytest.approx(published[name], rel=1e-3)
    with pytest.raises(RandomWeightsError, match="No architecture 'hunyuan'"):
        full_cost("hunyuan")


def test_the_papers_call_options_hold_for_the_full_architecture_only():
    preset = load_preset("spectrum-table-1-flux")
    random = random_pipeline("flux.1-dev", "small", "cpu")
    assert preset.apply_to(random.pipe) == {}
    random.pipe.transformer.register_to_config(num_layers=19, num_single_layers=38)
    assert preset.apply_to(random.pipe) == {"height": 1024, "width": 1024, "guidance_scale": 3.5}


def test_unknown_names_and_devices_are_refused(as_users_call):
    with pytest.raises(RandomWeightsError, match=r"No architecture 'flux': expected one of flux\.1-dev"):
        random_pipeline("flux", "small")
    with pytest.raises(RandomWeightsError, match="Unknown scale 'tiny'"):
        random_pipeline("flux.1-dev", "tiny")
    if not torch.cuda.is_available():
        with pytest.raises(RandomWeightsError, match="cannot be built on cuda"):
            random_pipeline("flux.1-dev", "small", "cuda")
