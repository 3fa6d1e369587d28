"""Folder of a bench: one stored run per entry and prompt, written atomically."""

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
from foreseer.evaluate.sampling.pixels import FRAME_MILLISECONDS, as_bytes
from foreseer.files import checksum, read_arrays, read_header, read_json, read_whole, write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK, IDENTITY = "bench.lock", "bench.json"
CHECKSUM = "checksum"
MOST_BYTES = 2**36  # of a file: the samples of a long video


class BenchError(ForeseerError, RuntimeError):
    """A bench cannot continue: its folder is another's, in use or full, or the reference cannot be drawn."""


def key_of(name: str, budget: int | None, *details: Any) -> str:
    """File name of an entry; it differs where any detail differs.

    >>> key_of("kernel:a b", 9, "x")
    'kernel-a-b-9-f375b3'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    digest = hashlib.sha256(json.dumps([name, budget, *details], sort_keys=True, default=repr).encode())
    return f"{slug}-{'own' if budget is None else budget}-{digest.hexdigest()[:6]}"


def run_path(index: int, key: str) -> str:
    """Path of an entry's run of a prompt, relative to the folder, without suffix."""
    return f"cells/{index:05d}/{key}"


def entry_path(key: str) -> str:
    """Path of an entry's description and cost, relative to the folder."""
    return f"entries/{key}.json"


class ResultStore:
    """The files of a bench.

    Args:
        folder: the report's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other benches out. The system frees the lock of a process that died, so no lock is ever stale.

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
                    pass  # a file system without locks: other benches cannot be detected
            with self._writing(path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            yield

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """Claim the folder for a bench, or check that it is this bench's already.

        Raises:
            BenchError: the folder holds the results of another bench.
        """
        path = self.folder / IDENTITY
        stored = self._read(path)
        expected = json.loads(json.dumps(identity, default=_json_value))
        if stored is None:
            if path.exists():
                raise BenchError(
                    f"{path} is damaged, so the bench of this folder is unknown. Give another folder (-o)."
                )
            self.write(IDENTITY, expected)
            return
        differing = [key for key in {**expected, **stored} if expected.get(key) != stored.get(key)]
        if differing:
            details = "; ".join(
                f"{key} {_short(stored.get(key))} there, {_short(expected.get(key))} here" for key in differing
            )
            raise BenchError(f"{self.folder} holds the results of another bench ({details}). Give another folder (-o).")

    def read(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file by its path in the folder; ``None`` if it is missing or damaged."""
        return self._read(self.folder / name)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file.

        Raises:
            BenchError: it cannot be written.
        """
        plain = json.loads(json.dumps(content, default=_json_value))
        self._write(name, (json.dumps({**plain, CHECKSUM: _digest(plain)}, indent=1) + "\n").encode())

    def read_arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """Read the arrays of a file; ``None`` if it is missing or damaged."""
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

        contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        self._write(name, save(contiguous, {CHECKSUM: checksum(contiguous, {})}))

    def write_picture(self, name: str, sample: np.ndarray) -> None:
        """Write a picture, or a video as an animated PNG; both lossless at 8 bits.

        Raises:
            BenchError: it cannot be written.
        """
        from PIL import Image

        frames = [Image.fromarray(frame) for frame in as_bytes(sample)]
        buffer = io.BytesIO()
        if len(frames) == 1:
            frames[0].save(buffer, "PNG")
        else:
            animation: dict[str, Any] = {"append_images": frames[1:], "duration": FRAME_MILLISECONDS, "loop": 0}
            # Pillow merges equal neighbouring frames unless their blending differs; opaque frames look alike with both.
            blends = [index % 2 for index in range(len(frames))]
            frames[0].save(buffer, "PNG", save_all=True, blend=blends, **animation)
        self._write(name, buffer.getvalue())

    def read_picture(self, name: str) -> np.ndarray:
        """Read the frames of a picture or video, shape (F, H, W, 3), uint8."""
        from PIL import Image, ImageSequence

        with Image.open(self.folder / name) as picture:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)])

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
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
                f"Cannot write {path}: {error.strerror or error}. Earlier results are kept: solve this and run the "
                "same command again."
            ) from error

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            content = read_json(read_whole(path, MOST_BYTES))
        except (OSError, ValueError):
            return None
        intact = isinstance(content, dict) and content.pop(CHECKSUM, None) == _digest(content)
        return content if intact else None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _json_value(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else repr(value)


def _short(value: Any) -> str:
    text = json.dumps(value, default=_json_value)
    return text if len(text) <= 60 else f"{text[:57]}..."
