"""The folder of a bench: a cell a contender and prompt, written whole or not at all, by one bench at a time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.errors import ForeseerError
from foreseer.evaluate.pixels import FRAME_MILLISECONDS, as_bytes
from foreseer.files import checksum, read_arrays, read_header, read_json, read_whole, write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK, IDENTITY = "bench.lock", "bench.json"
CHECKSUM = "checksum"
MOST_BYTES = 2**36  # of a file: a long video's samples


class BenchError(ForeseerError, RuntimeError):
    """A bench cannot go on: its folder is another's, in use or full, or the reference cannot be drawn."""


def key_of(name: str, budget: int | None, *details: Any) -> str:
    """A short file name for a contender, other for other details.

    >>> key_of("kernel:a b", 9, "x")
    'kernel-a-b-9-f375b3'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    digest = hashlib.sha256(json.dumps([name, budget, *details], sort_keys=True, default=repr).encode())
    return f"{slug}-{'own' if budget is None else budget}-{digest.hexdigest()[:6]}"


def cell(index: int, key: str) -> str:
    """Where what a contender gave for a prompt is, without the file's suffix."""
    return f"cells/{index:05d}/{key}"


def about(key: str) -> str:
    """Where what is known of a contender is."""
    return f"contenders/{key}.json"


class Cells:
    """What is in the folder of a bench, and what is written there.

    Args:
        folder: of the report.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other benches out. The system frees the lock of a process that died, so none is ever stale.

        Raises:
            BenchError: another bench writes here, or the folder cannot be made.
        """
        path = self.folder / LOCK
        if self.folder.exists() and not self.folder.is_dir():
            raise BenchError(f"{self.folder} is a file: give a folder (-o).")
        with self._writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        with file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    file.seek(0)
                    holder = file.read(200).strip() or "another process"
                    raise BenchError(
                        f"Another bench writes to {self.folder} ({holder}): wait for it, or give another folder (-o)."
                    ) from error
                except OSError:
                    pass  # a file system without locks: nothing can be known of others
            with self._writing(path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            yield

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """Say whose folder it is, or find that it is this bench's already.

        Raises:
            BenchError: the folder holds the results of another bench.
        """
        path = self.folder / IDENTITY
        found = self._read(path)
        wanted = json.loads(json.dumps(identity, default=_plain))
        if found is None:
            if path.exists():
                raise BenchError(f"{path} is damaged: nothing tells whose results are there. Give another folder (-o).")
            self.write(IDENTITY, wanted)
            return
        others = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if others:
            words = "; ".join(f"{key} {_short(found.get(key))} there, {_short(wanted.get(key))} here" for key in others)
            raise BenchError(f"{self.folder} holds the results of another bench ({words}). Give another folder (-o).")

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file by its path in the folder; ``None`` where there is none, or a damaged one."""
        return self._read(self.folder / name)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file.

        Raises:
            BenchError: it cannot be written.
        """
        plain = json.loads(json.dumps(content, default=_plain))
        self._write(name, (json.dumps({**plain, CHECKSUM: _digest(plain)}, indent=1) + "\n").encode())

    def read_arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of a file; ``None`` where there is none, or a damaged one."""
        try:
            metadata, header, start = read_header(content := read_whole(self.folder / name, MOST_BYTES))
            arrays = read_arrays(content, start, header)
        except (OSError, ValueError):
            return None
        return arrays if metadata.get(CHECKSUM) == checksum(arrays, {}) else None

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays.

        Raises:
            BenchError: they cannot be written.
        """
        from safetensors.numpy import save

        whole = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        self._write(name, save(whole, {CHECKSUM: checksum(whole, {})}))

    def write_picture(self, name: str, sample: np.ndarray) -> None:
        """Write a picture, or a video as an animated PNG; both lossless in 8 bits.

        Raises:
            BenchError: it cannot be written.
        """
        from PIL import Image

        frames = [Image.fromarray(one) for one in as_bytes(sample)]
        buffer = io.BytesIO()
        if len(frames) == 1:
            frames[0].save(buffer, "PNG")
        else:
            more: dict[str, Any] = {"append_images": frames[1:], "duration": FRAME_MILLISECONDS, "loop": 0}
            # Pillow joins neighbouring frames that are equal unless they are blended otherwise; opaque ones look alike.
            blends = [index % 2 for index in range(len(frames))]
            frames[0].save(buffer, "PNG", save_all=True, blend=blends, **more)
        self._write(name, buffer.getvalue())

    def read_picture(self, name: str) -> np.ndarray:
        """The frames of a picture or video, shape (F, H, W, 3), uint8."""
        from PIL import Image, ImageSequence

        with Image.open(self.folder / name) as picture:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)])

    def delete(self, name: str) -> None:
        """Delete a file if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        with self._writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BenchError(
                f"Cannot write {path}: {error.strerror or error}. What was measured before is kept: mend that and give "
                "the same command again."
            ) from error

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            content = read_json(read_whole(path, MOST_BYTES))
        except (OSError, ValueError):
            return None
        whole = isinstance(content, dict) and content.pop(CHECKSUM, None) == _digest(content)
        return content if whole else None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else repr(value)


def _short(value: Any) -> str:
    words = json.dumps(value, default=_plain)
    return words if len(words) <= 60 else f"{words[:57]}..."
