"""The bundled model's renderings and the measure of drawn shapes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

sys.path.append(str(Path(__file__).parents[3] / "training"))
from distil_guidance import GuidedBatches
from icons import COLOUR_NAMES, COLOURS, SIZES, Icon, load_icons, render, render_pool, visible_pairs
from shape import shape_psnr
from train_transformer import Batches


def disc(colour):
    picture = Image.new("RGBA", (128, 96))
    ImageDraw.Draw(picture).ellipse((8, 0, 112, 95), fill=(*colour, 255))
    return picture.crop(picture.getchannel("A").getbbox())


@pytest.fixture
def icons():
    return [Icon("orange disc", disc((250, 150, 20))), Icon("white disc", disc((255, 255, 255)))]


def test_a_background_that_hides_an_icon_is_left_out(icons):
    assert len(icons[0].colours) == len(COLOUR_NAMES)
    assert COLOUR_NAMES.index("white") not in icons[1].colours
    pairs = {tuple(pair) for pair in visible_pairs(icons)}
    _, which, colour = render_pool(icons, 2 * len(pairs), 0)
    assert sorted(zip(which, colour, strict=True)) == sorted([*pairs] * 2)


def test_every_rendering_holds_the_whole_icon(icons):
    images, _, colour = render_pool(icons, 60, 0)
    for image, number in zip(images, colour, strict=True):
        rows, columns = np.nonzero((image != np.array(COLOURS[COLOUR_NAMES[number]])).any(axis=2))
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert SIZES.start - 1 <= longer < SIZES.stop


def test_an_icon_has_one_size_the_larger_the_more_detail_it_has(icons):
    stripes = Image.new("RGBA", (128, 128), (255, 255, 255, 255))
    for left in range(0, 128, 16):
        ImageDraw.Draw(stripes).rectangle((left, 0, left + 7, 127), fill=(0, 0, 0, 255))
    striped = Icon("stripes", stripes)
    assert icons[0].size == SIZES.start
    assert striped.size == SIZES.stop - 1
    images, _, colour = render_pool([icons[0]], 24, 1)
    drawn = [
        (image != np.array(COLOURS[COLOUR_NAMES[number]])).any(axis=2)
        for image, number in zip(images, colour, strict=True)
    ]
    lengths = {int(np.ptp(np.nonzero(each)[1])) + 1 for each in drawn}
    assert lengths <= {SIZES.start - 1, SIZES.start}


def test_icons_are_cropped_and_named_by_their_vocabulary(tmp_path):
    (tmp_path / "words.txt").write_text("# a heading\nround-thing\nother: second thing\n")
    for file in ("round-thing", "other"):
        disc((0, 0, 0)).save(tmp_path / f"{file}.png")
    icons = load_icons(tmp_path, tmp_path / "words.txt")
    assert [icon.name for icon in icons] == ["round thing", "second thing"]
    assert icons[0].picture.getbbox() == (0, 0, *icons[0].picture.size)
    (tmp_path / "other.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 pictures, among them other\.png"):
        load_icons(tmp_path, tmp_path / "words.txt")


def test_shape_measure_finds_size_and_place_and_punishes_a_torn_outline(icons):
    image = render(icons[0].resized[47], COLOURS["blue"], (9, 14))
    torn = image.copy()
    torn[20:30] = np.roll(torn[20:30], 6, axis=1)
    assert shape_psnr(image, icons[0], "blue") > 45
    assert shape_psnr(torn, icons[0], "blue") < 25
    assert shape_psnr(image, icons[0], "red") < 15


@pytest.mark.parametrize("scale", [-8, 8])
def test_shape_measure_is_the_psnr_of_the_difference(icons, scale):
    image = render(icons[0].resized[50], COLOURS["green"], (3, 5)).astype(int)
    changed = np.clip(image + scale, 0, 255)
    expected = 10 * np.log10(255.0**2 / np.mean((changed - image) ** 2))
    assert shape_psnr(changed.astype(np.uint8), icons[0], "green") == pytest.approx(expected, abs=0.3)


def test_distillation_targets_are_the_teachers_guided_velocity():
    def teacher(latents, sigma, clip_ids, t5_ids):
        return latents + clip_ids[:, :1, None] * sigma.view(-1, 1, 1)

    latents = torch.zeros(8, 64, 32)
    tables = torch.tensor([[3], [0]]), torch.tensor([[1], [0]])
    batches = Batches(latents, torch.zeros(8, dtype=torch.long), tables, 400, torch.Generator().manual_seed(0))
    noisy, sigma, clip_ids, _, guidance, target = GuidedBatches(batches, teacher).draw()
    expected = noisy + (guidance * clip_ids[:, 0] * sigma).view(-1, 1, 1)
    assert torch.allclose(target, expected, atol=0.05)
    assert guidance.min() >= 1.0
    assert guidance.max() <= 5.0
    assert guidance.std() > 1.0
    assert 0.02 < (clip_ids == 0).float().mean() < 0.2
