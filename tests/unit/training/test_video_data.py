"""The video example's renderings: every motion moves as its caption says."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[3] / "training"))
from video.data import COLOUR_NAMES, FRAMES, MOTIONS, SIDE, all_captions, path, render, render_pool, strips

COURSES = 200
MARK = 5


@pytest.fixture
def courses():
    """From a motion to its courses: centres (n, 9, 2), sizes (n, 9), angles (n, 9)."""

    def draw(motion):
        rng = np.random.default_rng(0)
        return tuple(np.stack(part) for part in zip(*(path(motion, rng) for _ in range(COURSES)), strict=True))

    return draw


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_thing_stays_in_the_picture(courses, motion):
    centres, sizes, _ = courses(motion)
    assert centres.shape == (COURSES, FRAMES, 2)
    assert np.all(centres - sizes[..., None] / 2 >= -1e-9)
    assert np.all(centres + sizes[..., None] / 2 <= SIDE + 1e-9)


@pytest.mark.parametrize(("word", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_moving_goes_one_way_in_equal_steps(courses, word, axis, sign):
    centres, sizes, angles = courses(f"moving {word}")
    steps = np.diff(centres, axis=1)
    assert np.all(sign * steps[..., axis] > 0.9)
    np.testing.assert_allclose(steps, steps[:, :1] * np.ones_like(steps), atol=1e-9)
    assert np.all(steps[..., 1 - axis] == 0)
    assert np.all(np.diff(sizes) == 0)
    assert np.all(np.diff(angles) == 0)


def test_bouncing_leaves_the_ground_twice(courses):
    height = courses("bouncing")[0][..., 1]
    ground = height[:, [0, 4, 8]]
    np.testing.assert_allclose(ground, ground[:, :1] * np.ones_like(ground), atol=1e-9)
    assert np.all(ground[:, :1] - height[:, [2, 6]] > 5)


def test_turning_is_half_a_turn_clockwise():
    picture = torch.zeros(1, 4, 36, 36)
    picture[:, [0, 3], :MARK] = 1.0
    course = (np.full((FRAMES, 2), 16.0), np.full(FRAMES, 24.0), np.linspace(0, 180, FRAMES))
    frames = render(picture, np.zeros((1, 3)), [course])[0, ..., 0].astype(float)
    weight = frames.sum((1, 2))
    across = (frames.sum(1) * (np.arange(SIDE) - 15.5)).sum(1) / weight
    down = (frames.sum(2) * (np.arange(SIDE) - 15.5)).sum(1) / weight
    radius = np.hypot(across, down)
    np.testing.assert_allclose(np.degrees(np.arctan2(across, -down)), np.linspace(0, 180, FRAMES), atol=2.0)
    np.testing.assert_allclose(radius, radius[0], rtol=0.05)


@pytest.mark.parametrize(("word", "sign"), [("growing", 1), ("shrinking", -1)])
def test_sizes_change_one_way_about_a_fixed_centre(courses, word, sign):
    centres, sizes, _ = courses(word)
    assert np.all(sign * np.diff(sizes) > 1.5)
    assert np.all(np.diff(centres, axis=1) == 0)


def test_a_pool_is_even_and_reproducible():
    pictures = torch.rand(2, 4, 36, 36)
    count = 2 * len(MOTIONS) * len(COLOUR_NAMES)
    videos, labels = render_pool(pictures, count, seed=3)
    again, same = render_pool(pictures, count, seed=3)
    assert videos.shape == (count, FRAMES, SIDE, SIDE, 3)
    assert videos.dtype == np.uint8
    assert len(np.unique(labels, axis=0)) == count
    np.testing.assert_array_equal(videos, again)
    np.testing.assert_array_equal(labels, same)
    assert not np.array_equal(videos, render_pool(pictures, count, seed=4)[0])


def test_strips_lay_frames_from_left_to_right():
    videos = np.arange(2 * FRAMES * 2 * 2 * 3, dtype=np.uint8).reshape(2, FRAMES, 2, 2, 3)
    laid = strips(videos)
    assert laid.shape == (2, 2, 2 * FRAMES, 3)
    np.testing.assert_array_equal(laid[1, :, 6:8], videos[1, 3])


def test_captions_differ_and_say_the_motion():
    captions = all_captions(["red apple", "octopus"])
    assert len(set(captions)) == 2 * len(MOTIONS) * len(COLOUR_NAMES)
    assert captions[0] == "a red apple moving left on a white background"
    assert captions[-1] == "an octopus shrinking on a pink background"
