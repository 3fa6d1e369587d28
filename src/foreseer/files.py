"""Artifacts: arrays in safetensors, everything else as string metadata. Read as data, never executed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foreseer.errors import ForeseerError


class Artifact:
    """One kind of file.

    Args:
        kind: what it holds, as messages say it: "plan".
        version: the format version written, and the latest one read.
        arrays: the dtypes of its arrays by name.
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
        arrays: Mapping[str, type],
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
            ForeseerError: of the kind's own class, where it cannot be written.
        """
        from safetensors.numpy import save

        content = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        header = {"format": f"foreseer.{self.kind}", "version": str(self.version), **metadata}
        header["checksum"] = checksum(content, header)
        try:
            write_atomically(Path(path), save(content, header))
        except OSError as error:
            raise self.error(f"Cannot write {os.fspath(path)}: {error.strerror or error}.") from error

    def load(self, path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Read arrays and metadata, refusing with one clear sentence whatever is not of this kind.

        Raises:
            ForeseerError: of the kind's own class.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        try:
            size = path.stat().st_size
            if size > self.most_bytes:
                raise self.error(f"{path} has {size} bytes; no {self.kind} is larger than {self.most_bytes}.")
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                self._check(metadata, path)
                names = set(file.keys())
                wanted = [name for name in self.arrays if name in names or name not in self.optional]
                arrays = {name: file.get_tensor(name) for name in wanted}
        except OSError as error:
            raise self.error(f"Cannot read {path}: {error.strerror or error}.") from error
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError) as error:
            if isinstance(error, ForeseerError):
                raise
            raise self.error(f"{path} is damaged or no {self.kind}: {type(error).__name__}: {error}.") from error
        for name, array in arrays.items():
            if array.dtype != self.arrays[name]:
                expected = np.dtype(self.arrays[name])
                raise self.error(f"{path} is damaged or no {self.kind}: {name} is {array.dtype}, expected {expected}.")
        if metadata.pop("checksum") != checksum(arrays, metadata):
            raise self.error(f"{path} is damaged: its checksum is not that of its content.")
        return arrays, metadata

    def _check(self, metadata: Mapping[str, str], path: Path) -> None:
        if metadata.get("format") != f"foreseer.{self.kind}":
            found = metadata.get("format")
            raise self.error(f"{path} is a safetensors file but no {self.kind} (its format is {found!r}).")
        version = metadata.get("version", "")
        if not (version.isascii() and version.isdecimal()) or not 1 <= int(version[:9]) <= self.version:
            raise self.error(
                f"{path} has {self.kind} format {version[:20]!r}; this Foreseer reads up to {self.version}: update it."
            )
        missing = [key for key in (*self.metadata, "checksum") if key not in metadata]
        if missing:
            raise self.error(f"{path} lacks the metadata {', '.join(missing)}.")


def checksum(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, shapes, values and metadata, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    for key in sorted(metadata):
        digest.update(f"{len(key)} {key} {len(metadata[key])} {metadata[key]} ".encode())
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path``, then move it there; readable as any file that the user writes.

    Raises:
        OSError: the folder is missing, not writable or full; the old file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
