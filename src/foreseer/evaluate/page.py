"""Self-contained pages: their templates, and pictures as part of the file."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST_SIDE = 512  # pixels; larger pictures are shrunk to fit
MOST_BYTES = 500_000  # a picture
SMALLER_SIDES = (LARGEST_SIDE, 320, 192, 96)
WHOLE_FACTOR_BELOW = 128  # pixels: smaller pictures are enlarged by whole factors
FORMATS = {"PNG": "png", "GIF": "gif", "JPEG": "jpeg", "WEBP": "webp"}


@dataclass(frozen=True)
class Inlined:
    """A picture as a page holds it.

    Attributes:
        source: the ``src`` of an image; ``None`` where the picture cannot be shown.
        width: of the file, pixels.
        height: of the file, pixels.
        shrunk: whether the page holds less than the file.
        missing: why there is none.
    """

    source: str | None = None
    width: int = 0
    height: int = 0
    shrunk: bool = False
    missing: str | None = None


def template(name: str) -> Any:
    """A template of this package; what it prints is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=PackageLoader("foreseer.evaluate"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    ).get_template(name)


def data_uri(content: bytes, kind: str = "png") -> str:
    """A picture's file as an address that needs no file."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def enlarged(picture: Any) -> Any:
    """The PIL picture, by a whole factor where it is small: a browser would blur it."""
    from PIL import Image

    factor = max(1, math.ceil(WHOLE_FACTOR_BELOW / max(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def as_png(picture: Any) -> bytes:
    """A PIL picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def inline_file(folder: Path, name: str) -> Inlined:
    """The picture ``name`` in ``folder``, as it is or shrunk; moving pictures keep moving.

    A picture that cannot be read, or that lies outside ``folder``, is missing with the reason.
    """
    from PIL import Image

    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            return Inlined(missing=f"{name} lies outside the report")
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
            kind = FORMATS.get(picture.format or "")
            if kind is not None and max(width, height) <= LARGEST_SIDE and len(content) <= MOST_BYTES:
                picture.load()  # a damaged file is found here
                return Inlined(data_uri(content, kind), width, height)
            return Inlined(data_uri(_shrunk(picture), "webp"), width, height, shrunk=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return Inlined(missing=f"{name}: {reason}")


def _shrunk(picture: Any) -> bytes:
    """As WebP of at most ``MOST_BYTES`` where one of the sides that are tried allows it."""
    from PIL import ImageSequence

    content = b""
    for side in SMALLER_SIDES:
        frames = []
        for frame in ImageSequence.Iterator(picture):
            small = frame.convert("RGB")
            small.thumbnail((side, side))
            frames.append(small)
        buffer = io.BytesIO()
        duration = picture.info.get("duration", 80)
        frames[0].save(buffer, "WEBP", quality=88, save_all=True, append_images=frames[1:], duration=duration, loop=0)
        content = buffer.getvalue()
        if len(content) <= MOST_BYTES:
            break
    return content
