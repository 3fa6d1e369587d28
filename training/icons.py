"""Icons with captions: vocabulary, rendering and reproducible pools.

Every picture is one icon on a plain background, at a random place of a grid of 8 pixels: one token, so
that few views of each icon have to be learnt. Each icon has one size, the larger the more detail it has.
Its caption is "a {name} on a {colour} background". A colour is left out for the icons that would vanish in it.
"""

import io
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

IMAGE_SIZE = 64
SIZES = range(40, 57)
SIZE_BY_DETAIL = ((11.0, 40), (16.0, 48), (float("inf"), 56))
PLACE_STEP = 8
VISIBLE_DISTANCE = 80.0
HIDDEN_SHARE = 0.4

COLOURS = {
    "white": (246, 246, 246),
    "black": (22, 22, 26),
    "red": (176, 28, 44),
    "green": (28, 112, 62),
    "blue": (36, 76, 190),
    "yellow": (252, 236, 130),
    "purple": (104, 52, 148),
    "pink": (250, 186, 214),
}
COLOUR_NAMES = tuple(COLOURS)

VOCABULARY_FILE = Path(__file__).with_name("vocabulary.txt")


@dataclass(frozen=True)
class Icon:
    """A vocabulary entry: its name in captions and its RGBA picture, cropped to what is visible."""

    name: str
    picture: Image.Image

    @cached_property
    def colours(self):
        """Numbers of the background colours in which the icon's outline is visible."""
        pixels = np.asarray(self.picture).astype(np.float64)
        mask = Image.fromarray(np.pad(np.where(pixels[..., 3] > 200, 255, 0).astype(np.uint8), 4))
        inner = np.asarray(mask.filter(ImageFilter.MinFilter(7)))[4:-4, 4:-4]
        outline = pixels[(pixels[..., 3] > 200) & (inner == 0), :3]
        distances = [np.linalg.norm(outline - np.array(colour), axis=1) for colour in COLOURS.values()]
        return tuple(i for i, d in enumerate(distances) if (d < VISIBLE_DISTANCE).mean() < HIDDEN_SHARE)

    @cached_property
    def resized(self):
        """The picture by the length of its longer side, for every length in ``SIZES``."""
        longer = max(self.picture.size)
        sides = {size: [max(1, round(side * size / longer)) for side in self.picture.size] for size in SIZES}
        return {size: self.picture.resize(sides[size], Image.Resampling.LANCZOS) for size in SIZES}

    @cached_property
    def size(self):
        """Pixels of its longer side; detail is the mean change between neighbouring pixels on grey."""
        picture = self.resized[max(SIZES)]
        pixels = render(picture, (128, 128, 128), (0, 0))[: picture.height, : picture.width].astype(np.float64)
        detail = sum(np.abs(np.diff(pixels, axis=axis)).mean() for axis in (0, 1))
        return next(size for most, size in SIZE_BY_DETAIL if detail < most)


def read_vocabulary(path=VOCABULARY_FILE):
    """Return the (file name without .png, name in captions) pairs of a vocabulary file."""
    entries = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            file, _, name = line.partition(":")
            entries.append((file.strip(), name.strip() or file.strip().replace("-", " ")))
    return entries


def read_pictures(source, files):
    """Return {file name: bytes} of PNG files below a folder or inside a tar.

    Raises:
        FileNotFoundError: the source lacks some of the files.
    """
    source = Path(source)
    if source.is_dir():
        contents = {p.name: p.read_bytes() for p in source.rglob("*.png") if p.name in files}
    else:
        with tarfile.open(source) as archive:
            contents = {
                Path(member.name).name: archive.extractfile(member).read()
                for member in archive
                if member.isfile() and Path(member.name).name in files
            }
    missing = sorted(set(files) - set(contents))
    if missing:
        raise FileNotFoundError(f"{source} lacks {len(missing)} pictures, among them {missing[0]}")
    return contents


def load_icons(source, vocabulary=VOCABULARY_FILE):
    """Read the vocabulary's pictures from a folder or tar of PNG files with transparency."""
    names = {f"{file}.png": name for file, name in read_vocabulary(vocabulary)}
    contents = read_pictures(source, names)
    icons = []
    for file, name in names.items():
        picture = Image.open(io.BytesIO(contents[file])).convert("RGBA")
        icons.append(Icon(name, picture.crop(picture.getchannel("A").getbbox())))
    return icons


def with_article(noun):
    """Return the noun with "a" or "an" before it."""
    vowel_sound = noun[0] in "aeiou" and not noun.startswith(("uni", "use", "eu"))
    vowel_sound = vowel_sound or noun.startswith("hour")
    return f"{'an' if vowel_sound else 'a'} {noun}"


def caption(name, colour):
    """Return the caption of an icon's name on a background colour's name."""
    return f"{with_article(name)} on {with_article(colour)} background"


def render(picture, colour, corner):
    """Draw an RGBA picture on a background colour (r, g, b), its upper left corner at (x, y)."""
    canvas = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), colour)
    canvas.paste(picture, corner, picture)
    return np.asarray(canvas)


def render_random(icon, colour, rng):
    """Draw an icon at its size and at a random place of a grid; returns a uint8 array (64, 64, 3)."""
    picture = icon.resized[icon.size]
    corner = tuple(PLACE_STEP * int(rng.integers(0, (IMAGE_SIZE - side) // PLACE_STEP + 1)) for side in picture.size)
    return render(picture, COLOURS[colour], corner)


def visible_pairs(icons):
    """Return the (icon number, colour number) rows of all pictures that captions may ask for."""
    return np.array([(i, colour) for i, icon in enumerate(icons) for colour in icon.colours])


def render_pool(icons, count, seed):
    """Render ``count`` pictures, every visible pair of icon and colour equally often, in random order.

    Returns (images uint8 (count, 64, 64, 3), icon numbers, colour numbers).
    """
    rng = np.random.default_rng(seed)
    pairs = visible_pairs(icons)
    order = np.concatenate([rng.permutation(len(pairs)) for _ in range(-(-count // len(pairs)))])[:count]
    which, colour = pairs[order].T
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for i in range(count):
        images[i] = render_random(icons[which[i]], COLOUR_NAMES[colour[i]], rng)
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
