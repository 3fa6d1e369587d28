"""Reading what others may have written: within limits, regular files only, as data."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any

MOST_WORDS = 300  # characters of an error's reason: a hostile file may hold megabytes to quote


def read_whole(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """The bytes of a regular file; nothing else is read, and no pipe waited for.

    Raises:
        OSError: it is missing, larger than ``most_bytes``, no regular file, or may not be read.
        ValueError: the path is none.
    """
    with open(path, "rb", buffering=0, opener=without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if status.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, expected at most {most_bytes}")
        content = file.readall()
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it has {len(content)} bytes, expected at most {most_bytes}")
    return content


def read_text(path: str | os.PathLike[str], most_bytes: int) -> str:
    """The words of a regular file in UTF-8, with a byte order mark or without.

    Raises:
        OSError: as :func:`read_whole`.
        ValueError: the path is none, or the file is not UTF-8.
    """
    return str(read_whole(path, most_bytes), "utf-8-sig")


def read_json(content: bytes | str) -> Any:
    """JSON (bytes are UTF-8) as plain values, each key once an object.

    Raises:
        ValueError: it is no JSON, or too deep.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    try:
        words = content if isinstance(content, str) else str(content, "utf-8")
        return json.loads(words, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_words(text: str) -> dict[str, str]:
    """A JSON object of words as a dictionary.

    Raises:
        ValueError: it is something else.
    """
    words = read_json(text)
    if not isinstance(words, dict) or not all(isinstance(value, str) for value in words.values()):
        raise ValueError("its provenance is no dictionary of words")
    return words


def read_names(text: str) -> list[str]:
    """A JSON list of names, each there once.

    Raises:
        ValueError: it is something else.
    """
    names = read_json(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise ValueError("its branches are no list of names, each once")
    return names


def reason(error: BaseException) -> str:
    """Why a file cannot be read or written, in a few words."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return shortened(words).rstrip(".")


def shortened(words: str, most: int = MOST_WORDS) -> str:
    """``words``, cut where they are longer than ``most`` characters."""
    return words if len(words) <= most else f"{words[: most - 3]}..."


def without_waiting(path: str, flags: int) -> int:
    """Open ``path``, not waiting for the other end where it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
