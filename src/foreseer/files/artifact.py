"""Artifacts: arrays in safetensors, everything else as string metadata. Read as data, never executed."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foreseer.errors import ForeseerError
from foreseer.files.container import MOST_HEADER, read_arrays, read_header
from foreseer.files.reading import read_whole, reason, shortened
from foreseer.files.writing import write_atomically


class Artifact:
    """One kind of file.

    Args:
        kind: what it holds, as messages say it: "plan".
        version: the format version written, and the latest one read.
        arrays: per array its dtype and its shape, sizes by name: "P T T+1 B*T". A name stands for one size throughout
            the file and is met alone first. ``None`` for any shape.
        optional: names of arrays that may be missing.
        metadata: the keys that it must have beside format and version.
        error: what is raised.
        most_bytes: a larger file is refused unread.
    """

    def __init__(
        self,
        kind: str,
        *,
        version: int,
        arrays: Mapping[str, tuple[type, str | None]],
        optional: tuple[str, ...] = (),
        metadata: tuple[str, ...],
        error: type[ForeseerError],
        most_bytes: int,
    ) -> None:
        self.kind = kind
        self.version = version
        self.arrays = arrays
        self.optional = optional
        self.metadata = metadata
        self.error = error
        self.most_bytes = most_bytes

    def save(self, path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
        """Write a file; a reader sees the old one or the whole new one.

        Raises:
            ForeseerError: of the kind's own class, where it cannot be written, or could not be read again.
        """
        from safetensors.numpy import save

        content = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        header = {"format": f"foreseer.{self.kind}", "version": str(self.version), **metadata}
        header["checksum"] = checksum(content, header)
        data = save(content, header)
        for what, size, most in (
            ("a header", int.from_bytes(data[:8], "little"), MOST_HEADER),
            ("in all", len(data), self.most_bytes),
        ):
            if size > most:
                raise self.error(
                    f"Cannot write {os.fspath(path)}: it would have {what} of {size} bytes; no {self.kind} has more "
                    f"than {most}."
                )
        try:
            write_atomically(Path(path), data)
        except (OSError, ValueError) as error:
            raise self.error(f"Cannot write {os.fspath(path)}: {reason(error)}.") from error

    def load(self, path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Read arrays and metadata, refusing with one clear sentence whatever is not of this kind.

        The arrays are read-only views of the file's bytes: a file takes its own size in memory, once.

        Raises:
            ForeseerError: of the kind's own class.
        """
        try:
            content = read_whole(path, self.most_bytes)
        except (OSError, ValueError) as error:
            raise self.error(f"Cannot read {os.fspath(path)}: {reason(error)}.") from error
        try:
            metadata, header, start = read_header(content)
            self._check(metadata)
            arrays = read_arrays(content, start, header)
            self._check_arrays(arrays)
            known = metadata.pop("checksum")
            if known != checksum(arrays, metadata):
                raise ValueError("its checksum is not that of its content")
        except (ValueError, OverflowError, MemoryError) as error:
            raise self.error(f"{os.fspath(path)} is damaged or no {self.kind}: {reason(error)}.") from error
        return arrays, metadata

    def _check(self, metadata: Mapping[str, str]) -> None:
        found = metadata.get("format")
        if found != f"foreseer.{self.kind}":
            raise ValueError(f"its format is {shortened(repr(found), 60)}")
        version = metadata.get("version", "")
        if not (version.isascii() and version.isdecimal()) or not 1 <= int(version[:9]) <= self.version:
            raise ValueError(f"its version is {version[:20]!r}, this Foreseer reads up to {self.version}: update it")
        missing = [key for key in (*self.metadata, "checksum") if key not in metadata]
        if missing:
            raise ValueError(f"it lacks the metadata {', '.join(missing)}")

    def _check_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        missing = [name for name in self.arrays if name not in arrays and name not in self.optional]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        unknown = [name for name in arrays if name not in self.arrays]
        if unknown:
            raise ValueError(f"it holds {shortened(repr(unknown[0]), 60)}, as no {self.kind} does")
        sizes: dict[str, int] = {}
        for name, (dtype, shape) in self.arrays.items():
            if name not in arrays:
                continue
            array = arrays[name]
            if array.dtype != dtype:
                raise ValueError(f"{name} is {array.dtype}, expected {np.dtype(dtype)}")
            if shape is not None and array.shape != _expected(shape, array.shape, sizes):
                raise ValueError(f"{name} has shape {array.shape}, expected ({', '.join(shape.split())})")


def _expected(words: str, shape: tuple[int, ...], sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape that ``words`` stand for; a name that is met for the first time stands for its place in ``shape``."""
    names = words.split()
    if len(names) == len(shape):
        for name, size in zip(names, shape, strict=True):
            if name.isalpha():
                sizes.setdefault(name, size)
    found = []
    for name in names:
        factors, _, more = name.partition("+")
        found.append(math.prod(sizes.get(factor, -1) for factor in factors.split("*")) + int(more or 0))
    return tuple(found)


def checksum(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, shapes, values and metadata, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    for key in sorted(metadata):
        digest.update(f"{len(key)} {key} {len(metadata[key])} {metadata[key]} ".encode())
    return digest.hexdigest()
