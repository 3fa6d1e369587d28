"""The emoji of the video example: code points, names and pictures."""

import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from icons import read_pictures

COLOUR_JITTER = 8

COLOURS = {
    "white": (245, 245, 245),
    "black": (24, 24, 28),
    "green": (50, 150, 70),
    "blue": (40, 90, 205),
    "pink": (248, 170, 205),
}


@dataclass(frozen=True)
class Emoji:
    """One vocabulary entry: its code point, its name and its RGBA picture."""

    code_point: int
    name: str
    picture: Image.Image


def read_vocabulary(path):
    """Return the (code point, lower-case Unicode name) pairs of a vocabulary file."""
    entries = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words and not line.startswith("#"):
            code_point = int(words[0], 16)
            entries.append((code_point, unicodedata.name(chr(code_point)).lower()))
    return entries


def load_emoji(source, vocabulary):
    """Read the vocabulary's pictures from a folder or tar of ``emoji_u{hex}.png`` files."""
    entries = read_vocabulary(vocabulary)
    files = {f"emoji_u{code_point:04x}.png": (code_point, name) for code_point, name in entries}
    contents = read_pictures(source, files)
    return [
        Emoji(code_point, name, Image.open(io.BytesIO(contents[file])).convert("RGBA"))
        for file, (code_point, name) in files.items()
    ]
