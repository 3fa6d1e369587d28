"""What users do by mistake is refused in words, where it would have done nothing or something else."""

from __future__ import annotations

import pytest
import torch

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.errors import AttachError
from foreseer.pipelines import PipelineError, load_pipeline
from tests.attach.common import policy, tiny

GRID = fs.Grid.uniform(4)


def test_a_detached_handle_is_not_entered() -> None:
    handle = fs.accelerate(tiny("flux").pipe, policy())
    handle.detach()
    with pytest.raises(AttachError, match="was detached"), handle:
        pass


def test_a_wrapped_function_takes_a_grid_and_whole_steps(as_users_call: None) -> None:
    with pytest.raises(AttachError, match="expected a Grid"):
        fs.wrap(lambda x, t: x, policy(), [1.0, 0.5])
    denoise = fs.wrap(lambda x, t: x, policy(), GRID)
    with pytest.raises(AttachError, match=r"step is 0.5; expected a whole number"):
        denoise(0.5, torch.ones(1), 1.0)


def test_prompts_and_steps_are_not_given_twice() -> None:
    pipe, _ = load_pipeline("emoji")
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 32, "max_sequence_length": 16}
    with pytest.raises(PipelineError, match="prompts and seeds are given on their own"):
        fs.calibrate(pipe, ["a red apple"], num_inference_steps=4, prompt="a cactus", **call)
    kernel = fs.calibrate(pipe, ["a red apple"], num_inference_steps=4, response_prompts=0, **call)
    with pytest.raises(CalibrationError, match="for the 4 steps of its kernel, not for 6"):
        fs.rollout(pipe, kernel, ["a red apple"], nfe=2, num_inference_steps=6, **call)
