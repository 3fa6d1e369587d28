"""Where results are kept, so that a unit that is done is not repeated."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from pathlib import Path

from foreseer.errors import ScaleError
from foreseer.files import read_json, read_whole, write_atomically
from foreseer.scale.unit import Unit

MOST_BYTES = 2**36
MOST_HEADER = 4096
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Store(ABC):
    """Results by unit."""

    @abstractmethod
    def get(self, unit: Unit) -> bytes | None:
        """The result of a unit with the same name and fingerprint, else ``None``."""

    @abstractmethod
    def put(self, unit: Unit, result: bytes) -> None:
        """Keep a result.

        Raises:
            ScaleError: it cannot be written.
        """


class MemoryStore(Store):
    """Results of this process, lost with it."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str], bytes] = {}

    def get(self, unit: Unit) -> bytes | None:
        """The result, where there is one."""
        return self._results.get((unit.name, unit.fingerprint))

    def put(self, unit: Unit, result: bytes) -> None:
        """Keep a result."""
        self._results[unit.name, unit.fingerprint] = result


class FolderStore(Store):
    """One file per unit, written under a temporary name and renamed: a reader never sees part of one.

    A file is one line of JSON (unit, fingerprint, SHA-256 of the result), then the result. A damaged file counts as
    missing. Results of other jobs in the same folder do no harm, because the fingerprint is part of the name.

    Args:
        folder: made when the first result is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, unit: Unit) -> Path:
        """The file of a unit."""
        if not NAME.fullmatch(unit.name):
            raise ScaleError(f"The unit name {unit.name!r} cannot be a file name: use letters, digits and hyphens.")
        digest = hashlib.sha256(unit.fingerprint.encode()).hexdigest()[:16]
        return self.folder / f"{unit.name}-{digest}.unit"

    def get(self, unit: Unit) -> bytes | None:
        """The result, where a whole file holds one."""
        try:
            content = read_whole(self.path(unit), MOST_BYTES)
            end = content.index(b"\n", 0, MOST_HEADER)
            header = read_json(content[:end])
        except (OSError, ValueError):
            return None
        result = content[end + 1 :]
        return result if header == _header(unit, result) else None

    def put(self, unit: Unit, result: bytes) -> None:
        """Write the file of a unit."""
        path = self.path(unit)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(_header(unit, result)).encode() + b"\n" + result)
        except OSError as error:
            raise ScaleError(
                f"Cannot write {path}: {error.strerror or error}. What is done is kept: mend that and start again."
            ) from error


def _header(unit: Unit, result: bytes) -> dict[str, str]:
    return {"unit": unit.name, "fingerprint": unit.fingerprint, "sha256": hashlib.sha256(result).hexdigest()}
