"""Videos of one emoji in motion: captions, motions, rendering and reproducible pools.

Every video is one emoji in one of eight motions on a plain background, 9 frames of
32x32; its caption is "a {Unicode name} {motion} on a {colour} background".
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from icons import with_article
from video.emoji import COLOUR_JITTER, COLOURS, load_emoji

FRAMES = 9
SIDE = 32
COLOUR_NAMES = ("white", "black", "green", "blue", "pink")
MOTIONS = (
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "bouncing",
    "turning",
    "growing",
    "shrinking",
)
THINGS_FILE = Path(__file__).with_name("things.txt")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MAX_TILT = 15.0
SOURCE_SIDE = 36
SUPERSAMPLING = 2
RENDER_BATCH = 256


def load_things(source):
    """Return (names, premultiplied pictures (n, 4, 36, 36) in [0, 1]) of the video example's emoji."""
    emoji = load_emoji(source, THINGS_FILE)
    pictures = torch.stack([torch.from_numpy(np.array(e.picture)).permute(2, 0, 1) for e in emoji]).float() / 255.0
    pictures[:, :3] *= pictures[:, 3:]
    return [e.name for e in emoji], functional.adaptive_avg_pool2d(pictures, SOURCE_SIDE)


def caption(name, motion, colour):
    """Return the caption of an emoji's name, a motion and a background colour's name."""
    return f"{with_article(name)} {motion} on {with_article(colour)} background"


def all_captions(names):
    """Return every caption, colours running fastest, then motions."""
    return [caption(name, motion, colour) for name in names for motion in MOTIONS for colour in COLOUR_NAMES]


def _moving(direction, time, rng):
    """Straight across the picture: most of the way that the thing's size leaves free."""
    size = rng.uniform(15, 20)
    free = SIDE - size
    way = rng.uniform(0.7, 1.0) * free
    centre = np.stack([size / 2 + rng.uniform(0, free) * np.ones_like(time) for _ in range(2)], axis=1)
    axis = int(direction[0] == 0)
    start = size / 2 + rng.uniform(0, free - way)
    centre[:, axis] = start + way * (time if sum(direction) > 0 else 1.0 - time)
    return centre, np.full_like(time, size), np.zeros_like(time)


def _bouncing(time, rng):
    """Two bounces from the ground, which is near the lower edge."""
    size = rng.uniform(15, 20)
    ground = SIDE - size / 2 - rng.uniform(0, 2)
    height = rng.uniform(0.7, 1.0) * (ground - size / 2)
    across = rng.uniform(size / 2, SIDE - size / 2)
    up = height * np.abs(np.sin(2 * np.pi * time))
    return np.stack([np.full_like(time, across), ground - up], axis=1), np.full_like(time, size), np.zeros_like(time)


def _turning(time, rng):
    """Half a turn clockwise."""
    size = rng.uniform(19, 25)
    centre = rng.uniform(size / 2, SIDE - size / 2, 2) + np.zeros((len(time), 1))
    return centre, np.full_like(time, size), 180.0 * time


def _growing(time, rng):
    """From 8 to 11 pixels to 24 to 28."""
    small, large = rng.uniform(8, 11), rng.uniform(24, 28)
    centre = rng.uniform(large / 2, SIDE - large / 2, 2) + np.zeros((len(time), 1))
    return centre, small + (large - small) * time, np.zeros_like(time)


def path(motion, rng):
    """Draw a course: centres (9, 2) and sizes (9,) in pixels, clockwise angles (9,) in degrees."""
    time = np.linspace(0.0, 1.0, FRAMES)
    word = motion.split()[-1]
    if word in DIRECTIONS:
        course = _moving(DIRECTIONS[word], time, rng)
    elif word == "bouncing":
        course = _bouncing(time, rng)
    elif word == "turning":
        course = _turning(time, rng)
    else:
        course = _growing(time if word == "growing" else 1.0 - time, rng)
    centres, sizes, angles = course
    return centres, sizes, angles + rng.uniform(-MAX_TILT, MAX_TILT)


def render(pictures, backgrounds, courses):
    """Draw uint8 videos (n, 9, 32, 32, 3) of pictures (n, 4, 36, 36) on backgrounds (n, 3)."""
    centres, sizes, angles = (torch.from_numpy(np.stack(part)).float() for part in zip(*courses, strict=True))
    side = SIDE * SUPERSAMPLING
    steps = (torch.arange(side) + 0.5) / SUPERSAMPLING
    points = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1)
    offsets = (points - centres[:, :, None, None]) * (2.0 / sizes[..., None, None, None])
    cosine, sine = (f(torch.deg2rad(angles))[..., None, None] for f in (torch.cos, torch.sin))
    x, y = offsets.unbind(-1)
    places = torch.stack([cosine * x + sine * y, cosine * y - sine * x], dim=-1)
    repeated = pictures.repeat_interleave(FRAMES, dim=0)
    drawn = functional.grid_sample(repeated, places.flatten(0, 1), align_corners=False)
    drawn = functional.avg_pool2d(drawn, SUPERSAMPLING)
    below = torch.as_tensor(backgrounds).float().repeat_interleave(FRAMES, dim=0)[:, :, None, None]
    frames = drawn[:, :3] * 255.0 + (1.0 - drawn[:, 3:]) * below
    frames = frames.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return frames.reshape(len(pictures), FRAMES, SIDE, SIDE, 3).numpy()


def render_pool(pictures, count, seed):
    """Render ``count`` videos, things, motions and colours equally often, in random order.

    Returns (videos uint8 (count, 9, 32, 32, 3), labels (count, 3): thing, motion, colour).
    """
    rng = np.random.default_rng(seed)
    shape = (len(pictures), len(MOTIONS), len(COLOUR_NAMES))
    cells = int(np.prod(shape))
    order = np.concatenate([rng.permutation(cells) for _ in range(-(-count // cells))])[:count]
    labels = np.stack(np.unravel_index(order, shape), axis=1)
    table = np.array([COLOURS[name] for name in COLOUR_NAMES])
    videos = np.empty((count, FRAMES, SIDE, SIDE, 3), np.uint8)
    for start in range(0, count, RENDER_BATCH):
        part = labels[start : start + RENDER_BATCH]
        jitter = rng.integers(-COLOUR_JITTER, COLOUR_JITTER + 1, (len(part), 3))
        backgrounds = np.clip(table[part[:, 2]] + jitter, 0, 255)
        courses = [path(MOTIONS[motion], rng) for motion in part[:, 1]]
        videos[start : start + RENDER_BATCH] = render(pictures[part[:, 0]], backgrounds, courses)
    return videos, labels


def strips(videos):
    """Lay the frames of each video side by side: uint8 (n, 9, h, w, 3) to (n, h, 9 w, 3)."""
    count, frames, height, width, _ = videos.shape
    return videos.transpose(0, 2, 1, 3, 4).reshape(count, height, frames * width, 3)
