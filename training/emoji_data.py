"""Emoji images with captions: vocabulary, rendering and reproducible pools.

Every picture is one emoji drawn at a random place, size and tilt on a plain
background; its caption is "a {Unicode name} on a {colour} background".
"""

import io
import tarfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_SIZE = 64
SIZE_RANGE = (36, 58)
MAX_TILT = 25.0
COLOUR_JITTER = 8

COLOURS = {
    "white": (245, 245, 245),
    "black": (24, 24, 28),
    "red": (205, 40, 45),
    "green": (50, 150, 70),
    "blue": (40, 90, 205),
    "yellow": (250, 232, 110),
    "purple": (120, 55, 165),
    "pink": (248, 170, 205),
}
COLOUR_NAMES = tuple(COLOURS)

VOCABULARY_FILE = Path(__file__).with_name("vocabulary.txt")


@dataclass(frozen=True)
class Emoji:
    """One vocabulary entry: its code point, its name and its RGBA picture."""

    code_point: int
    name: str
    picture: Image.Image


def read_vocabulary(path=VOCABULARY_FILE):
    """Return the (code point, lower-case Unicode name) pairs of a vocabulary file."""
    entries = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words and not line.startswith("#"):
            code_point = int(words[0], 16)
            entries.append((code_point, unicodedata.name(chr(code_point)).lower()))
    return entries


def _picture_bytes(source, wanted):
    """Return {file name: bytes} of the wanted PNGs below a folder or inside a tar."""
    source = Path(source)
    if source.is_dir():
        return {p.name: p.read_bytes() for p in source.rglob("*.png") if p.name in wanted}
    with tarfile.open(source) as archive:
        return {
            Path(member.name).name: archive.extractfile(member).read()
            for member in archive
            if member.isfile() and Path(member.name).name in wanted
        }


def load_emoji(source, vocabulary=VOCABULARY_FILE):
    """Read the vocabulary's pictures from a folder or tar of ``emoji_u{hex}.png`` files."""
    entries = read_vocabulary(vocabulary)
    files = {f"emoji_u{code_point:04x}.png": (code_point, name) for code_point, name in entries}
    found = _picture_bytes(source, files)
    missing = sorted(set(files) - set(found))
    if missing:
        raise FileNotFoundError(f"{source} lacks {len(missing)} pictures, among them {missing[0]}")
    return [
        Emoji(code_point, name, Image.open(io.BytesIO(found[file])).convert("RGBA"))
        for file, (code_point, name) in files.items()
    ]


def with_article(noun):
    """Return the noun with "a" or "an" before it."""
    vowel_sound = noun[0] in "aeiou" and not noun.startswith(("uni", "use", "eu"))
    vowel_sound = vowel_sound or noun.startswith("hour")
    return f"{'an' if vowel_sound else 'a'} {noun}"


def caption(name, colour):
    """Return the caption of an emoji's name on a background colour's name."""
    return f"{with_article(name)} on {with_article(colour)} background"


def render(picture, colour, rng):
    """Draw one RGBA picture on a background colour; returns a uint8 array (64, 64, 3)."""
    jitter = rng.integers(-COLOUR_JITTER, COLOUR_JITTER + 1, 3)
    background = np.clip(np.array(COLOURS[colour]) + jitter, 0, 255)
    canvas = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), tuple(int(v) for v in background))
    size = int(rng.integers(SIZE_RANGE[0], SIZE_RANGE[1] + 1))
    tilt = float(rng.uniform(-MAX_TILT, MAX_TILT))
    centre = rng.uniform(size / 2, IMAGE_SIZE - size / 2, 2)
    turned = picture.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    scale = size / picture.width
    turned = turned.resize((round(turned.width * scale), round(turned.height * scale)), Image.Resampling.LANCZOS)
    corner = (round(centre[0] - turned.width / 2), round(centre[1] - turned.height / 2))
    canvas.paste(turned, corner, turned)
    return np.asarray(canvas)


def render_pool(emoji, count, seed):
    """Render ``count`` pictures, emoji and colours equally often, in random order.

    Returns (images uint8 (count, 64, 64, 3), emoji indices, colour indices).
    """
    rng = np.random.default_rng(seed)
    pairs = len(emoji) * len(COLOUR_NAMES)
    order = np.concatenate([rng.permutation(pairs) for _ in range(-(-count // pairs))])[:count]
    which, colour = order // len(COLOUR_NAMES), order % len(COLOUR_NAMES)
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for i in range(count):
        images[i] = render(emoji[which[i]].picture, COLOUR_NAMES[colour[i]], rng)
    return images, which, colour


def contact_sheet(images, columns, scale=1):
    """Tile uint8 images (n, h, w, 3) into one picture, row by row."""
    height, width = images.shape[1:3]
    rows = -(-len(images) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height, left : left + width] = image
    picture = Image.fromarray(sheet)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
