"""Tuning in one call: held-out prompts stay out of every fit, and an interrupted tuning resumes."""

import importlib

import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.calibration import students
from foreseer.calibration.references import References
from foreseer.errors import CalibrationError
from tests.support.loop_pipeline import relative
from tests.unit.calibration.conftest import TRAINING

STEPS = 10


def tune(loop, prompts=TRAINING, **options):
    return fs.tune(loop, prompts, **{"num_inference_steps": STEPS, "budgets": [4], "iterations": 1, **options})


@pytest.fixture(scope="module")
def profile(loop):
    return tune(loop)


def test_nothing_is_fitted_on_held_out_prompts(loop, monkeypatch):
    module = importlib.import_module("foreseer.calibration.tune")
    fitted = {}

    def recording(name):
        function = getattr(module, name)

        def recorded(pipe, *arguments, **options):
            fitted[name] = arguments[-1]
            return function(pipe, *arguments, **options)

        return recorded

    for name in ("calibrate", "rollout", "refine"):
        monkeypatch.setattr(module, name, recording(name))
    tune(loop, mix=False)
    assert fitted == {"calibrate": TRAINING[:6], "rollout": TRAINING[:6], "refine": TRAINING}


def test_all_budgets_follow_the_same_references(loop, monkeypatch):
    runs, run = [], References._run
    monkeypatch.setattr(References, "_run", lambda *given: runs.append(given[3]) or run(*given))
    tuned = tune(loop, budgets=[4, 3], iterations=0)
    assert runs == list(range(8))  # the seeds of six prompts that rows are fitted on, and of two held out
    monkeypatch.setattr(
        students._Held, "references", property(lambda held: {}, lambda held, found: None), raising=False
    )
    alone = tune(loop, budgets=[4, 3], iterations=0)
    assert len(runs) > 3 * 8
    for together, apart in zip(tuned.plans, alone.plans, strict=True):
        assert np.array_equal(together.rows, apart.rows)


def test_a_tuned_plan_is_near_the_reference_on_prompts_never_seen(loop, profile, tmp_path):
    profile.save(tmp_path / "loop.profile.safetensors")

    def draw(steps=STEPS):
        generator = torch.Generator().manual_seed(90)
        return loop("a prompt never seen", num_inference_steps=steps, generator=generator).images

    assert profile.thumbnail is None
    assert profile.provenance["thumbnail"].startswith("none: ")  # its outputs are no pictures
    reference = draw()
    with fs.accelerate(loop, tmp_path / "loop.profile.safetensors", nfe=4) as handle:
        error = relative(draw(), reference)
    assert handle.record.nfe == 4
    assert error < relative(draw(steps=4), reference) / 4


def test_an_interrupted_tuning_resumes_with_the_same_rows(loop, profile, tmp_path):
    class StopError(Exception):
        pass

    def stop(stage, done, total):
        if stage.startswith("refine") and done == total:
            raise StopError

    with pytest.raises(StopError):
        tune(loop, checkpoint=tmp_path / "tuning", progress=stop)
    resumed = tune(loop, checkpoint=tmp_path / "tuning")
    assert np.array_equal(resumed.plans[0].rows, profile.plans[0].rows)
    assert np.array_equal(resumed.kernel.grams, profile.kernel.grams)


def test_default_budgets_are_those_below_the_number_of_steps(loop):
    found = fs.tune(loop, TRAINING[:4], num_inference_steps=8, iterations=0, mix=False)
    assert [plan.nfe for plan in found.plans] == [7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "prompts"),
        ({"prompts": "one prompt"}, "two prompts or more"),
        ({"budgets": [0]}, "a budget is 0"),
        ({"budgets": [11]}, "a budget is 11"),
        ({"budgets": ["4"]}, "a budget is '4'"),
        ({"iterations": -1}, "iterations is -1"),
        ({"num_inference_steps": 1}, "num_inference_steps is 1"),
        ({"checkpoint": "/dev/null/tuning"}, "Cannot keep a checkpoint"),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_bad_input_is_refused_before_any_run(loop, options, message):
    def never(*arguments):
        raise AssertionError("a run began")

    with pytest.raises(CalibrationError, match=message):
        tune(loop, progress=never, **options)
