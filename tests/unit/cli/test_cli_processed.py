"""The commands on folders whose processors need torchvision, as ``make test-matrix`` has it."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from foreseer.cli import app
from tests.support.folder_commands import calibrate_draw_and_compare, invoke
from tests.support.folder_table import LONG, PROCESSED_FAMILIES, PROCESSED_OTHERS
from tests.support.folders_processed import PROCESSED

pytest.importorskip("torchvision", reason="the processors of these pipelines need torchvision")


@pytest.fixture
def shown(tmp_path):
    """Gives the options of a number of pictures."""

    def of(count):
        paths = [tmp_path / f"{number}.png" for number in range(count)]
        for number, path in enumerate(paths):
            Image.linear_gradient("L").rotate(90 * number).resize((64, 64)).convert("RGB").save(path)
        return [word for path in paths for word in ("--image", path)]

    return of


def test_every_folder_is_tried():
    assert {*PROCESSED_FAMILIES, *PROCESSED_OTHERS} == {*PROCESSED}


@pytest.mark.parametrize("name", PROCESSED_FAMILIES)
def test_a_processed_folder_is_calibrated_drawn_from_and_compared(folder, tmp_path, name):
    assert calibrate_draw_and_compare(folder(name), tmp_path, PROCESSED_FAMILIES[name]).is_file()


@pytest.mark.parametrize("name", PROCESSED_OTHERS)
def test_pictures_are_given_and_drawn(folder, tmp_path, shown, name):
    options, pictures, size, frames = PROCESSED_OTHERS[name]
    drawn = tmp_path / "drawn.gif"
    words = ("generate", folder(name), "-p", "a red apple", "--method", "reuse", "--nfe", 2, "--steps", 3)
    sizes = ("--height", size, "--width", size)
    made = json.loads(invoke(*words, *sizes, *options, *shown(pictures), "-o", drawn, "--json"))
    assert made["record"]["nfe"] == 2
    assert made["record"]["failed_open"] == []
    with Image.open(drawn) as picture:
        assert picture.size == (size, size)
        assert 1 <= getattr(picture, "n_frames", 1) <= frames  # equal frames of a GIF are one


def test_a_video_that_is_too_short_is_refused_and_not_written_black(folder, tmp_path, shown):
    words = ("generate", folder("kandinsky5_i2v"), "-p", "a red apple", "--method", "reuse", "--nfe", 2, "--steps", 3)
    options = (*LONG, "--option", "num_frames=5", *shown(1))
    result = CliRunner().invoke(app, [*map(str, (*words, "--height", 32, "--width", 32, *options))])
    assert "drew values that are not finite (NaN)" in str(result.exception)
