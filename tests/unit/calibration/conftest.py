"""A calibrated small pipeline."""

import diffusers
import pytest

import foreseer as fs
from tests.support.loop_pipeline import LoopPipeline

STEPS = 20
TRAINING = [f"training prompt {index}" for index in range(8)]


@pytest.fixture(scope="session")
def loop():
    return LoopPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))


@pytest.fixture(scope="session")
def kernel(loop):
    return fs.calibrate(loop, TRAINING, num_inference_steps=STEPS)
