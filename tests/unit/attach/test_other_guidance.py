"""Rows that were learned with other guidance than a run's."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import foreseer as fs
from foreseer.attach.accelerate import attach
from foreseer.errors import AttachError, ForeseerWarning
from foreseer.guidance import distance, guidance_of, read_guidance
from foreseer.kernel.kernel import KernelError
from tests.support.loop_pipeline import LoopPipeline

STEPS = 8
PROMPTS = ["a", "b"]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return LoopPipeline(FlowMatchEulerDiscreteScheduler())


@pytest.fixture(scope="module")
def kernel(pipe: Any) -> fs.Kernel:
    return fs.calibrate(pipe, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0, guidance_scale=3.0)


def draw(pipe: Any, **options: Any) -> Any:
    return pipe("c", STEPS, torch.Generator().manual_seed(0), **options)


def test_another_guidance_is_refused_when_the_run_begins(pipe: Any, kernel: fs.Kernel) -> None:
    assert json.loads(kernel.provenance["guidance"]) == {"guidance_scale": 3.0}
    with fs.accelerate(pipe, kernel, nfe=4) as handle:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw(pipe, guidance_scale=3.0)
        assert handle.record.nfe == 4
        for options, words in (({}, "no guidance"), ({"guidance_scale": 5.0}, "guidance_scale 5")):
            refusal = f"learned with guidance_scale 3, and this run has {words}.*allow_other_guidance=True"
            for _ in range(2):  # a second try too
                with pytest.raises(AttachError, match=refusal):
                    draw(pipe, **options)
        draw(pipe, guidance_scale=3.0)
        assert handle.record.nfe == 4


def test_a_near_scale_or_an_allowed_one_gives_a_warning(pipe: Any, kernel: fs.Kernel) -> None:
    said = "this run has guidance_scale 3.3"
    with fs.accelerate(pipe, kernel, nfe=4) as handle, pytest.warns(ForeseerWarning, match=said):
        draw(pipe, guidance_scale=3.3)
    assert handle.record.nfe == 4
    with (
        fs.accelerate(pipe, kernel, nfe=4, allow_other_guidance=True) as handle,
        pytest.warns(ForeseerWarning, match="this run has no guidance. Forecasts may be poorer"),
    ):
        draw(pipe)
    assert handle.record.nfe == 4


def test_a_server_computes_every_step_instead(pipe: Any, kernel: fs.Kernel) -> None:
    with (
        attach(pipe, fs.learned(kernel, nfe=4), on_other_guidance="compute") as handle,
        pytest.warns(ForeseerWarning, match="computed instead of forecast: .* this run has no guidance"),
    ):
        guided = draw(pipe, guidance_scale=3.0)
        assert handle.record is not None
        assert handle.record.nfe == 4
        drawn = draw(pipe)
        assert handle.record.nfe == STEPS
        assert torch.equal(draw(pipe, guidance_scale=3.0).images, guided.images)
    assert torch.equal(drawn.images, draw(pipe).images)


def test_fitted_plans_state_the_guidance_of_their_fit(pipe: Any, kernel: fs.Kernel) -> None:
    """Rows may be fitted again at another scale, from a kernel or a plan of the first."""
    options = {"guidance_scale": 5.0, "num_inference_steps": STEPS}
    rolled = fs.rollout(pipe, kernel, PROMPTS, nfe=3, guidance_scale=3.0)
    assert read_guidance(rolled.provenance["guidance"]) == {"guidance_scale": 3.0}
    refined = fs.refine(pipe, rolled, PROMPTS, iterations=1, **options)
    assert read_guidance(refined.provenance["guidance"]) == {"guidance_scale": 5.0}
    with fs.accelerate(pipe, refined) as handle:
        draw(pipe, guidance_scale=5.0)
    assert handle.record.nfe == 3


def test_files_of_before_are_compared_with_no_run(pipe: Any, kernel: fs.Kernel) -> None:
    for text in ("", "5.0", "[1]", '{"guidance_scale": NaN}', "{"):
        old = fs.Kernel(kernel.grid, kernel.grams, kernel.sampler, provenance={**kernel.provenance, "guidance": text})
        with fs.accelerate(pipe, old, nfe=4):
            draw(pipe)
        assert old.merge(kernel, allow_overlap=True).provenance["guidance"] == ""


def test_kernels_of_different_guidance_are_merged_only_by_name(pipe: Any, kernel: fs.Kernel) -> None:
    other = fs.calibrate(pipe, PROMPTS, num_inference_steps=STEPS, sensitivity_prompts=0)
    with pytest.raises(KernelError, match="guidance 'guidance_scale 3', the other 'no guidance'"):
        kernel.merge(other, ignore_fields=["options"])
    assert kernel.merge(other, ignore_fields=["options", "guidance"]).provenance["guidance"] == ""


@pytest.mark.parametrize(
    ("arguments", "embeds", "runs", "expected"),
    [
        ({"guidance_scale": 3.5, "true_cfg_scale": 1.0}, True, None, {"embedded": 3.5}),
        ({"guidance_scale": 3.5, "true_cfg_scale": 4.0}, True, None, {"embedded": 3.5}),
        ({"guidance_scale": 3.5, "true_cfg_scale": 4, "negative_prompt": ""}, False, None, {"true_cfg_scale": 4.0}),
        ({"guidance_scale": None, "true_cfg_scale": 4.0, "negative_prompt": None}, False, None, {}),
        ({"guidance_scale": 5, "guidance_scale_2": 3}, False, True, {"guidance_scale": 5.0, "guidance_scale_2": 3.0}),
        ({"guidance_scale": 5.0}, False, False, {}),
        ({"guidance_scale": 0.5}, False, None, None),
        ({"guidance_scale": None}, False, True, None),
        ({"guidance_scale": [1.0, 3.0]}, False, True, None),
        ({}, False, None, {}),
    ],
)
def test_scales_in_effect(arguments: Any, embeds: bool, runs: Any, expected: Any) -> None:
    assert guidance_of(arguments, embeds=embeds, runs=runs) == expected


def test_distance_orders_guidance() -> None:
    near, far = {"embedded": 3.5}, {"embedded": 3.5, "true_cfg_scale": 3.0}
    assert distance(near, near) == 0
    assert 0 < distance(near, {"embedded": 5.0}) < 1 < distance(near, {"embedded": 0.0})
    assert distance(near, far) > 1
    assert distance(far, {**far, "true_cfg_scale": 3.3}) < 1 < distance(far, {**far, "true_cfg_scale": 5.0})
