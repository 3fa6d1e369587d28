"""Atomic writes; leftovers of killed writers are removed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from io import BufferedWriter, BytesIO
from pathlib import Path
from typing import Any

from foreseer.errors import ForeseerError, in_one_line
from foreseer.files.reading import without_waiting

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

DAY = 86400.0  # seconds
ATTEMPTS = 100  # another writer may delete a new file before it is locked, several times in a row on a busy machine


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a temporary file, then rename it to ``path``; permissions follow the umask.

    A symbolic link at ``path`` is replaced, not followed. Temporary files of killed writers of ``path`` are deleted.

    Raises:
        OSError: the folder is missing, not writable or full, or ``path`` is a folder, a pipe or a device; the old file
            is unchanged.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with _created(temporary) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                os.replace(temporary, path)  # while the lock is held
        if fcntl is None:
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class FormatError(ForeseerError, ValueError):
    """A picture cannot be written in the format that its file name asks for."""


def write_encoded(path: Path, save: Callable[[BytesIO, str], object]) -> None:
    """Write a picture or figure atomically: it is encoded in memory first.

    Args:
        path: the suffix names the format; ``png`` without one.
        save: encodes into a buffer in a format, given as the lower-case suffix without its dot.

    Raises:
        FormatError: ``save`` does not support the format, or the picture cannot be encoded in it.
        OSError: as :func:`write_atomically`.
    """
    buffer = BytesIO()
    try:
        save(buffer, path.suffix.lower().lstrip(".") or "png")
    except (ValueError, KeyError, OSError) as error:
        raise FormatError(f"Cannot write {path}: {in_one_line(error)}. Name it .png.") from error
    write_atomically(path, buffer.getvalue())


def write_figure(path: Path, figure: Any) -> None:
    """Write a matplotlib figure; see :func:`write_encoded`."""
    write_encoded(path, lambda buffer, kind: figure.savefig(buffer, format=kind))


@contextlib.contextmanager
def _created(path: Path) -> Iterator[BufferedWriter]:
    """Create a file that is locked while open; the operating system frees the lock of a killed writer."""
    for _ in range(ATTEMPTS):
        file = open(path, "xb")  # noqa: SIM115
        with file:
            with contextlib.suppress(OSError):  # a file system without locks
                _lock(file.fileno(), wait=True)
            if os.fstat(file.fileno()).st_nlink:
                yield file
                return
        # Another writer deleted it as a leftover before it was locked.
    raise OSError(errno.EAGAIN, "other writers interfere, try again")


def _sweep(path: Path) -> None:
    """Delete temporary files that killed writers of ``path`` left behind."""
    name = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{12}")
    with os.scandir(path.parent) as entries:
        left = [entry for entry in entries if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)]
    for entry in left:
        with contextlib.suppress(OSError), open(entry.path, "rb", opener=without_waiting) as file:
            if fcntl is None and time.time() - os.fstat(file.fileno()).st_mtime < DAY:
                continue
            _lock(file.fileno(), wait=False)  # fails if its writer is alive
            os.unlink(entry.path)


def _lock(descriptor: int, *, wait: bool) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
