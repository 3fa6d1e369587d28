"""The commands on folders whose processors need torchvision, as ``make test-matrix`` has it."""

import json

import pytest
from PIL import Image

from tests.support.folder_commands import Family, calibrate_draw_and_compare, invoke
from tests.support.folders_processed import PROCESSED

pytest.importorskip("torchvision", reason="the processors of these pipelines need torchvision")

# The test tokenizers have a token per letter, so this system prompt is long.
LONG = ["--option", "max_sequence_length=1000"]
FAMILIES = {
    "flux2": Family([]),
    "kandinsky5": Family([*LONG, "--option", "num_frames=5"], 2, 5),
    "qwen_image_edit": Family(["--negative", "a blur"], 2, methods=("reuse",), size=128),
}
# Options, pictures given, the size that is drawn, frames. Kandinsky 5 draws a megapixel at least, and videos from a
# picture of 17 frames at least: shorter ones divide by the deviation of no frame.
OTHERS = {
    "flux2": ([], 1, 32, 1),
    "qwen_image_edit_plus": (["--negative", " "], 2, 128, 1),
    "kandinsky5_i2v": ([*LONG, "--option", "num_frames=17"], 1, 32, 17),
    "kandinsky_5_t2i": ([], 0, 1024, 1),
    "kandinsky_5_i2i": ([], 1, 1024, 1),
}


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
    assert {*FAMILIES, *OTHERS} == {*PROCESSED}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_processed_folder_is_calibrated_drawn_from_and_compared(folder, tmp_path, shown, name):
    family = FAMILIES[name]
    given = shown(1) if name == "qwen_image_edit" else []
    report = calibrate_draw_and_compare(folder(name), tmp_path, family._replace(options=[*family.options, *given]))
    assert report.is_file()


@pytest.mark.parametrize("name", OTHERS)
def test_pictures_are_given_and_drawn(folder, tmp_path, shown, name):
    options, pictures, size, frames = OTHERS[name]
    drawn = tmp_path / "drawn.gif"
    words = ("generate", folder(name), "-p", "a red apple", "--method", "reuse", "--nfe", 2, "--steps", 3)
    sizes = ("--height", size, "--width", size)
    made = json.loads(invoke(*words, *sizes, *options, *shown(pictures), "-o", drawn, "--json"))
    assert made["record"]["nfe"] == 2
    assert made["record"]["failed_open"] == []
    with Image.open(drawn) as picture:
        assert picture.size == (size, size)
        assert 1 <= getattr(picture, "n_frames", 1) <= frames  # equal frames of a GIF are one
