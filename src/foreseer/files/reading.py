"""Reading untrusted files: regular files only, within size limits, as data."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any

MOST_CHARACTERS = 300  # of an error's reason: a hostile file may hold megabytes to quote


def read_whole(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """Return the bytes of a regular file; pipes and devices are rejected without waiting.

    Raises:
        OSError: the file is missing, larger than ``most_bytes``, not a regular file, or not readable.
        ValueError: the path is invalid.
    """
    with open(path, "rb", buffering=0, opener=without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if status.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, expected at most {most_bytes}")
        content = file.readall()
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it has {len(content)} bytes, expected at most {most_bytes}")
    return content


def read_text(path: str | os.PathLike[str], most_bytes: int) -> str:
    """Return the text of a regular file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: as :func:`read_whole`.
        ValueError: the path is invalid, or the file is not UTF-8.
    """
    return str(read_whole(path, most_bytes), "utf-8-sig")


def read_json(content: bytes | str) -> Any:
    """Parse JSON (bytes are UTF-8) into plain values; an object's keys must be unique.

    Raises:
        ValueError: the content is not JSON, has a repeated key, or is nested too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError("a key occurs twice")
        return result

    try:
        text = content if isinstance(content, str) else str(content, "utf-8")
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_strings(text: str) -> dict[str, str]:
    """Parse a JSON object whose values are strings.

    Raises:
        ValueError: the text is not such an object.
    """
    strings = read_json(text)
    if not isinstance(strings, dict) or not all(isinstance(value, str) for value in strings.values()):
        raise ValueError("its provenance is not a dictionary of strings")
    return strings


def read_names(text: str) -> list[str]:
    """Parse a JSON list of distinct names.

    Raises:
        ValueError: the text is not such a list.
    """
    names = read_json(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise ValueError("its branches are not a list of distinct names")
    return names


def reason(error: BaseException) -> str:
    """Return a short reason why a file cannot be read or written."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return shortened(message).rstrip(".")


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """Truncate ``text`` to ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def without_waiting(path: str, flags: int) -> int:
    """Open ``path`` without blocking if it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
