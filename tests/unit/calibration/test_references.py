"""An interrupted rollout does not repeat its reference runs, and takes none of another."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from PIL import Image

import foreseer as fs
from foreseer.calibration.calibrate import CalibrationError
from foreseer.calibration.identity import fingerprint
from foreseer.calibration.references import REFERENCE_FILE
from foreseer.methods.learned import searches_with_feedback
from tests.support.loop_pipeline import SmoothDenoiser
from tests.unit.calibration.conftest import STEPS, TRAINING


class StoppedError(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture
def evaluations(monkeypatch):
    """Counts the network's evaluations; forecasts and replays are none."""
    calls, forward = [], SmoothDenoiser.forward

    @functools.wraps(forward)
    def counted(*args, **kwargs):
        calls.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(SmoothDenoiser, "forward", counted)
    return calls


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_it_goes_on_where_it_was_with_the_same_rows(loop, tmp_path, evaluations, guidance):
    options = {"guidance_scale": guidance}
    kernel = fs.calibrate(loop, TRAINING[:3], num_inference_steps=STEPS, **options)
    whole = fs.rollout(loop, kernel, TRAINING[:3], nfe=5, **options)

    def interrupt(done, total):
        if done == 2 * STEPS:
            raise StoppedError

    with pytest.raises(StoppedError):
        fs.rollout(loop, kernel, TRAINING[:3], nfe=5, checkpoint=tmp_path / "kept", progress=interrupt, **options)
    assert len(list((tmp_path / "kept").glob("reference-*.safetensors"))) == 2
    evaluations.clear()
    resumed = fs.rollout(loop, kernel, TRAINING[:3], nfe=5, checkpoint=tmp_path / "kept", **options)
    branches = 1 if guidance == 1.0 else 2
    sets = len(searches_with_feedback(kernel, nfe=5))
    assert (sets > 1) == (guidance > 1.0)
    assert (f"{sets} sets of steps rolled out" in whole.provenance.get("searched", "")) == (sets > 1)
    assert len(evaluations) == branches * (1 + STEPS + 3 * 5 * sets)  # the matrix' one step, one reference, rollouts
    assert np.array_equal(resumed.rows, whole.rows)
    assert set(resumed.branch_rows) == set(whole.branch_rows)
    for name, rows in whole.branch_rows.items():
        assert np.array_equal(resumed.branch_rows[name], rows)


def test_it_goes_on_in_the_set_of_steps_where_it_was(loop, tmp_path, evaluations):
    options = {"guidance_scale": 3.0}
    kernel = fs.calibrate(loop, TRAINING[:3], num_inference_steps=STEPS, **options)
    whole = fs.rollout(loop, kernel, TRAINING[:3], nfe=5, **options)
    sets = len(searches_with_feedback(kernel, nfe=5))
    assert sets > 1
    before = 3 * (STEPS + 5) + 2 * 3  # references, the first set of steps, and two of five steps of the second

    def interrupt(done, total):
        assert total == 3 * (STEPS + sets * 5)
        if done == before:
            raise StoppedError

    with pytest.raises(StoppedError):
        fs.rollout(loop, kernel, TRAINING[:3], nfe=5, checkpoint=tmp_path, progress=interrupt, **options)
    evaluations.clear()
    resumed = fs.rollout(loop, kernel, TRAINING[:3], nfe=5, checkpoint=tmp_path, **options)
    assert resumed == whole
    # The matrix' one step; students whose moments are kept are run again up to where they were, not their references.
    assert len(evaluations) == 2 * (1 + (sets - 1) * 3 * 5)


def test_a_reference_of_another_run_is_not_taken(loop, kernel, tmp_path, evaluations):
    sets = len(searches_with_feedback(kernel, nfe=4))
    fs.rollout(loop, kernel, TRAINING[:1], nfe=4, checkpoint=tmp_path)
    evaluations.clear()
    fs.rollout(loop, kernel, TRAINING[:1], nfe=4, checkpoint=tmp_path, seed=1)
    assert len(evaluations) == 1 + STEPS + 4 * sets
    evaluations.clear()
    fs.rollout(loop, kernel, TRAINING[:1], nfe=4, checkpoint=tmp_path, teacher_steps=2 * STEPS)
    assert len(evaluations) == 1 + 2 * STEPS + 4 * sets
    assert len(list(tmp_path.glob("reference-*.safetensors"))) == 3


def test_a_damaged_reference_is_named(loop, kernel, tmp_path):
    fs.rollout(loop, kernel, TRAINING[:1], nfe=4, checkpoint=tmp_path)
    (file,) = tmp_path.glob("reference-*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CalibrationError, match=f"{file.name} is damaged .* Remove it"):
        fs.rollout(loop, kernel, TRAINING[:1], nfe=5, checkpoint=tmp_path)


@pytest.mark.parametrize(
    "change", [{"names": '["a"]'}, {"names": "[1]"}, {"names": "{"}, {"mixing": np.ones(2)}, {"targets": np.zeros(())}]
)
def test_a_reference_that_contradicts_itself_is_named(loop, kernel, tmp_path, change):
    fs.rollout(loop, kernel, TRAINING[:1], nfe=4, checkpoint=tmp_path)
    (file,) = tmp_path.glob("reference-*.safetensors")
    arrays, metadata = REFERENCE_FILE.load(file)
    arrays = {name: change.get(name, array).astype(array.dtype) for name, array in arrays.items()}
    REFERENCE_FILE.save(file, arrays, {**metadata, "names": change.get("names", metadata["names"])})
    with pytest.raises(CalibrationError, match=file.name):
        fs.rollout(loop, kernel, TRAINING[:1], nfe=5, checkpoint=tmp_path)


def test_fingerprints_tell_values_apart():
    picture = Image.new("RGB", (4, 4), (1, 2, 3))
    values = [
        torch.ones(3),
        torch.ones(3, dtype=torch.bfloat16) * 2,
        np.ones(4),
        picture,
        Image.new("RGB", (4, 4), (1, 2, 4)),
        [picture, picture],
        None,
        "words",
        {"a": 1},
        {"a": torch.zeros(2000)},
        {"a": torch.arange(2000) == 1000},
        {"a": torch.arange(2000) == 1001},
    ]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint(picture) == fingerprint(picture.copy())


def test_a_reference_without_branches_does_not_serve_rows_per_branch(loop, tmp_path):
    options = {"num_inference_steps": 8, "guidance_scale": 3.0}
    kernel = fs.calibrate(loop, TRAINING[:1], sensitivity_prompts=0, **options)
    assert kernel.branches is not None
    expected = fs.rollout(loop, kernel, TRAINING[:1], nfe=3, guidance_scale=3.0)
    shared = dataclasses.replace(kernel, branches=None)
    for used in (shared, kernel, shared):
        plan = fs.rollout(loop, used, TRAINING[:1], nfe=3, checkpoint=tmp_path, guidance_scale=3.0)
        assert bool(plan.branch_rows) == (used is kernel)
        assert plan == expected or used is shared


def test_a_folder_that_cannot_be_is_named(loop, kernel, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CalibrationError, match=r"Cannot keep a checkpoint in .*taken"):
        fs.rollout(loop, kernel, TRAINING[:1], nfe=4, checkpoint=tmp_path / "taken")
