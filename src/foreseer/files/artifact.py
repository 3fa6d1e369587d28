"""Artifacts: arrays in safetensors, everything else in string metadata. Read as data, never executed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foreseer.errors import ForeseerError
from foreseer.files.container import MOST_HEADER, read_arrays, read_header
from foreseer.files.reading import read_json, read_whole, reason, shortened
from foreseer.files.writing import write_atomically


class Artifact:
    """Format of one kind of file: its arrays, metadata and size limit.

    Args:
        kind: name of the content in messages: "plan".
        version: format version that is written, and the latest that can be read.
        arrays: dtype and shape of each array, with named sizes: "P T T+1 B*T". A name has one size throughout the file
            and must first occur alone. ``None`` for any shape.
        optional: names of arrays that may be missing.
        metadata: required keys, in addition to format and version.
        error: class of the errors raised.
        most_bytes: limit; a larger file is rejected unread.
        remedy: what to do about a damaged file, as a sentence; ends the message.
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
        remedy: str = "",
    ) -> None:
        self.kind = kind
        self.version = version
        self.arrays = arrays
        self.optional = optional
        self.metadata = metadata
        self.error = error
        self.most_bytes = most_bytes
        self.remedy = remedy

    def save(self, path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
        """Write a file atomically.

        Raises:
            ForeseerError: of class ``error``; the file cannot be written, or is too large to be read again.
        """
        name = self._name_of(path)
        data = self.encode(arrays, metadata, name)
        try:
            write_atomically(Path(name), data)
        except (OSError, ValueError) as error:
            raise self.error(f"Cannot write {name}: {reason(error)}.") from error

    def encode(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], name: str) -> bytes:
        """Return the bytes of a file, equal for equal content; ``name`` appears in messages.

        Raises:
            ForeseerError: of class ``error``; it would be too large to be read again.
        """
        from safetensors.numpy import save

        content = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        header = {"format": f"foreseer.{self.kind}", "version": str(self.version), **metadata}
        header["checksum"] = checksum(content, header)
        data = _with_sorted_header(save(content, header))
        for what, size, most in (
            ("header", int.from_bytes(data[:8], "little"), MOST_HEADER),
            ("file", len(data), self.most_bytes),
        ):
            if size > most:
                raise self.error(
                    f"Cannot write {name}: its {what} would have {size} bytes; expected at most {most} for a "
                    f"{self.kind}."
                )
        return data

    def load(self, path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Read arrays and metadata; the arrays are read-only views of the file's bytes.

        Raises:
            ForeseerError: of class ``error``; the file cannot be read or is not of this kind.
        """
        name = self._name_of(path)
        try:
            content = read_whole(name, self.most_bytes)
        except (OSError, ValueError) as error:
            raise self.error(f"Cannot read {name}: {reason(error)}.") from error
        return self.decode(content, name)

    def _name_of(self, path: str | os.PathLike[str]) -> str:
        """The path as text.

        Raises:
            ForeseerError: of class ``error``; it cannot be a file's.
        """
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not name or "\0" in name:
            raise self.error(f"The path of a {self.kind} is {path!r}; expected the name of a file.")
        return name

    def decode(self, content: bytes, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Read arrays and metadata from a file's bytes; ``name`` appears in messages.

        Raises:
            ForeseerError: of class ``error``; the content is not of this kind.
        """
        try:
            metadata, header, start = read_header(content)
            self._check_kind(metadata, name)
            self._check(metadata)
            arrays = read_arrays(content, start, header)
            self._check_arrays(arrays)
            stored_checksum = metadata.pop("checksum")
            if stored_checksum != checksum(arrays, metadata):
                raise ValueError("its checksum does not match its content")
        except self.error:
            raise
        except (ValueError, OverflowError, MemoryError) as error:
            message = f"{name} is damaged or not a {self.kind}: {reason(error)}. {self.remedy}"
            raise self.error(message.rstrip()) from error
        return arrays, metadata

    def _check_kind(self, metadata: Mapping[str, str], name: str) -> None:
        """Name the kind of a whole file of another kind."""
        project, _, kind = metadata.get("format", "").partition(".")
        if project == "foreseer" and kind != self.kind and "checksum" in metadata and kind.isidentifier():
            raise self.error(f"{name} is a {shortened(kind, 60)}; expected a {self.kind}.")

    def _check(self, metadata: Mapping[str, str]) -> None:
        file_format = metadata.get("format")
        if file_format != f"foreseer.{self.kind}":
            raise ValueError(f"its format is {shortened(repr(file_format), 60)}")
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
            raise ValueError(f"it holds {shortened(repr(unknown[0]), 60)}, which no {self.kind} has")
        sizes: dict[str, int] = {}
        for name, (dtype, shape) in self.arrays.items():
            if name not in arrays:
                continue
            array = arrays[name]
            if array.dtype != dtype:
                raise ValueError(f"{name} is {array.dtype}, expected {np.dtype(dtype)}")
            if shape is not None and array.shape != _expected(shape, array.shape, sizes):
                raise ValueError(f"{name} has shape {array.shape}, expected ({', '.join(shape.split())})")


def _with_sorted_header(content: bytes) -> bytes:
    """Return a safetensors file with its header sorted; the library's order changes from call to call."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]


def _expected(pattern: str, shape: tuple[int, ...], sizes: dict[str, int]) -> tuple[int, ...]:
    """Evaluate a shape pattern; a new name takes the size at its position in ``shape``."""
    names = pattern.split()
    if len(names) == len(shape):
        for name, size in zip(names, shape, strict=True):
            if name.isalpha():
                sizes.setdefault(name, size)
    expected = []
    for name in names:
        factors, _, more = name.partition("+")
        expected.append(math.prod(sizes.get(factor, -1) for factor in factors.split("*")) + int(more or 0))
    return tuple(expected)


def checksum(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, shapes, values and metadata, independent of their order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    for key in sorted(metadata):
        digest.update(f"{len(key)} {key} {len(metadata[key])} {metadata[key]} ".encode())
    return digest.hexdigest()


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return the kind of artifact in a file ("plan", "kernel", ...), empty if it is none."""
    try:
        with open(path, "rb") as file:
            start = file.read(8 + MOST_HEADER)
        length = int.from_bytes(start[:8], "little")
        metadata = read_json(start[8 : 8 + length]).get("__metadata__", {})
        return str(metadata.get("format", "")).removeprefix("foreseer.")
    except (OSError, ValueError, AttributeError):
        return ""
