"""PNG pictures in files: recognised and limited, and never decoded here."""

from __future__ import annotations

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_PNG_BYTES = 2**18
MOST_SIDE = 2**13  # pixels; a small file may state a size that fills the memory


def check_png(content: bytes) -> bytes:
    """Return ``content``, which must look like a PNG file of limited size.

    Raises:
        ValueError: it is not bytes, has another signature, or is too large.
    """
    if not isinstance(content, bytes) or not content.startswith(SIGNATURE) or content[12:16] != b"IHDR":
        raise ValueError("its picture is not a PNG file")
    width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
    if len(content) > MOST_PNG_BYTES or not 1 <= min(width, height) <= max(width, height) <= MOST_SIDE:
        raise ValueError(
            f"its picture has {len(content)} bytes and {width} x {height} pixels; expected at most {MOST_PNG_BYTES} "
            f"bytes and {MOST_SIDE} pixels a side"
        )
    return content
