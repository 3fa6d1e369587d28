"""The trained video example: a folder that diffusers loads, whose videos move as the captions say."""

import numpy as np
import pytest

import foreseer as fs
from foreseer.cli import main
from foreseer.pipelines import load_pipeline, split_sampling
from tests.unit.training.folder import FOLDER

STEPS = 12
SEEDS = (0, 1)
MOST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def example():
    """The pipeline and the options of its call."""
    pipe, sampling = load_pipeline(str(FOLDER), device="cpu")
    pipe.set_progress_bar_config(disable=True)
    options = {**split_sampling(sampling)[1], "num_inference_steps": STEPS, "output_type": "np"}
    return pipe, options


@pytest.fixture(scope="module")
def draw(example):
    """From a caption to the mean place of the thing in each frame (x, y), and its share of the picture."""
    import torch

    pipe, options = example

    def course(words):
        frames = pipe(
            [words] * len(SEEDS), generator=[torch.Generator().manual_seed(s) for s in SEEDS], **options
        ).frames
        assert frames.shape == (len(SEEDS), 9, 32, 32, 3)
        ground = np.median(frames, axis=(2, 3), keepdims=True)
        thing = (np.abs(frames - ground).max(axis=-1) > 0.25).astype(float)
        amount = thing.sum(axis=(2, 3)) + 1e-9
        across = (thing.sum(axis=2) * np.arange(32)).sum(axis=2) / amount
        down = (thing.sum(axis=3) * np.arange(32)).sum(axis=2) / amount
        return across, down, amount / 32**2

    return course


def test_the_folder_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= MOST_BYTES


def test_things_move_across_as_asked(draw):
    left = draw("a red apple moving left on a blue background")[0]
    right = draw("a red apple moving right on a blue background")[0]
    assert np.all(left[:, -1] - left[:, 0] < -4)
    assert np.all(right[:, -1] - right[:, 0] > 4)


def test_things_grow_and_shrink_as_asked(draw):
    grown = draw("a red apple growing on a white background")[2]
    shrunk = draw("a red apple shrinking on a white background")[2]
    assert np.all(grown[:, -1] > 2 * grown[:, 0])
    assert np.all(shrunk[:, -1] < shrunk[:, 0] / 2)


def test_forecasts_stay_near_the_reference(example):
    import torch

    pipe, options = example
    words = "a rocket moving up on a black background"
    reference = pipe(words, generator=torch.manual_seed(0), **options).frames
    with fs.accelerate(pipe, fs.methods.find("taylorseer").policy(STEPS, 6), strict=True) as handle:
        video = pipe(words, generator=torch.manual_seed(0), **options).frames
    assert handle.record.nfe == 6
    assert 0 < np.sqrt(np.mean((video - reference) ** 2)) < 0.25 * np.std(reference)


def test_the_command_line_writes_a_moving_picture(tmp_path, capsys):
    from PIL import Image

    path = tmp_path / "apple.gif"
    options = ["--steps", "4", "--method", "reuse", "--nfe", "2", "-o", str(path)]
    main_or_exit(["generate", str(FOLDER), "-p", "a red apple growing on a white background", *options])
    assert "2 of 4 steps computed" in capsys.readouterr().out
    with Image.open(path) as picture:
        assert picture.n_frames == 9
        assert picture.size == (32, 32)


def main_or_exit(arguments):
    """Run the command line; it ends as a program does."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
