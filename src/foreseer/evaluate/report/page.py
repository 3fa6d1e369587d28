"""Pieces of self-contained HTML pages: templates, and pictures as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST_SIDE = 512  # pixels; larger pictures are shrunk to fit
MOST_BYTES = 500_000  # per picture
SMALLER_SIDES = (LARGEST_SIDE, 320, 192, 96)
FORMATS = {"PNG": "png", "GIF": "gif", "JPEG": "jpeg", "WEBP": "webp"}


@dataclass(frozen=True)
class Inlined:
    """Picture as part of a page.

    Attributes:
        source: ``src`` of the image; ``None`` if the picture cannot be shown.
        width: width of the file, pixels.
        height: height of the file, pixels.
        shrunk: whether the picture was shrunk or compressed for the page.
        missing: reason why the picture cannot be shown.
    """

    source: str | None = None
    width: int = 0
    height: int = 0
    shrunk: bool = False
    missing: str | None = None


def template(name: str) -> Any:
    """Load a template of this package; its output is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=PackageLoader("foreseer.evaluate.report"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    ).get_template(name)


def data_uri(content: bytes, kind: str = "png") -> str:
    """Encode the content of a picture file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def inline_file(folder: Path, name: str) -> Inlined:
    """Inline the picture ``name`` of ``folder``, unchanged or shrunk; animations stay animated.

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
                picture.load()  # fails for a damaged file
                return Inlined(data_uri(content, kind), width, height)
            return Inlined(data_uri(_shrunk(picture), "webp"), width, height, shrunk=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return Inlined(missing=f"{name}: {reason}")


def _shrunk(picture: Any) -> bytes:
    """Encode as WebP of at most ``MOST_BYTES`` if one of ``SMALLER_SIDES`` allows it."""
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
