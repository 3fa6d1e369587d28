"""Where there are few steps in all, a learned policy never expects more error than the best sub-grid."""

import numpy as np
import pytest

import foreseer as fs
from foreseer.forecast import Reuse
from foreseer.methods.validate import expected_error, formula_error
from foreseer.schedule import Optimal
from tests.support.loop_pipeline import relative, sample

STEPS = 8


@pytest.fixture(scope="module")
def few(loop):
    return fs.calibrate(loop, ["one", "two"], num_inference_steps=STEPS, sensitivity_prompts=0)


def expected(kernel, policy):
    """The expected error of a learned policy on the kernel's grid."""
    steps = policy.schedule.on(kernel.grid)
    if isinstance(policy.forecaster, Reuse):
        return formula_error(kernel, steps, policy.forecaster).mean
    rows = policy.forecaster
    return expected_error(kernel, steps, rows.ridge, feedback_gain=rows.feedback_gain).mean


def sub_grid(kernel, nfe):
    """The least error that reuse can have."""
    schedule = Optimal(kernel, nfe, forecaster=Reuse())
    return formula_error(kernel, schedule.on(kernel.grid), Reuse()).mean


@pytest.mark.parametrize("nfe", range(1, STEPS))
def test_learned_never_expects_more_than_the_best_sub_grid(few, nfe):
    assert expected(few, fs.learned(few, nfe=nfe)) <= sub_grid(few, nfe)


@pytest.mark.parametrize("nfe", [1, 2])
def test_prompts_that_contradict_each_other_are_served_by_reuse(nfe):
    """One prompt's outputs grow, the other's shrink: rows of one are twice as wrong on the other as reuse."""
    bend = 0.3 * (np.arange(STEPS) / STEPS) ** 2
    grams = np.stack([np.outer(1 + bend, 1 + bend), np.outer(1 - bend, 1 - bend)])
    kernel = fs.Kernel(fs.Grid.uniform(STEPS), grams, final_squares=np.ones(2))
    policy = fs.learned(kernel, nfe=nfe)
    assert isinstance(policy.forecaster, Reuse)
    assert expected(kernel, policy) == sub_grid(kernel, nfe)
    assert policy.compile(kernel.grid).nfe == nfe


def test_reuse_is_the_sampler_on_the_sub_grid(loop):
    """Euler's method on the computed steps' levels alone gives the same sample."""
    computed = (0, 1, 3, 6)
    with fs.accelerate(loop, fs.Policy(fs.schedule.Explicit(computed), Reuse()), strict=True):
        reused = sample(loop, "a word", 3, num_inference_steps=STEPS)
    levels = loop.scheduler.sigmas.double()
    words_seen = []
    full = loop.transformer.forward

    def remember(*args, **kwargs):
        words_seen.append((args, kwargs))
        return full(*args, **kwargs)

    loop.transformer.forward = remember
    try:
        sample(loop, "a word", 3, num_inference_steps=STEPS)
    finally:
        del loop.transformer.forward
    latent = words_seen[0][0][0].double()
    for step, end in zip(computed, (*computed[1:], STEPS), strict=True):
        _, kwargs = words_seen[step]
        velocity = full(latent.float(), **kwargs)[0].double()
        latent = latent + (levels[end] - levels[step]) * velocity
    assert relative(reused, latent) < 1e-5
