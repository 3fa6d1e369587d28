"""Files: artifacts in safetensors; JSON and text read as data, within limits; writes that are whole or not at all."""

from foreseer.files.artifact import Artifact, checksum
from foreseer.files.container import read_arrays, read_header
from foreseer.files.reading import read_json, read_names, read_text, read_whole, read_words, reason, shortened
from foreseer.files.writing import write_atomically

__all__ = [
    "Artifact",
    "checksum",
    "read_arrays",
    "read_header",
    "read_json",
    "read_names",
    "read_text",
    "read_whole",
    "read_words",
    "reason",
    "shortened",
    "write_atomically",
]
