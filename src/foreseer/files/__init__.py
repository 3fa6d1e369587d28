"""Files: safetensors artifacts, JSON and text read as data within size limits, and atomic writes."""

from foreseer.files.artifact import Artifact, checksum, kind_of
from foreseer.files.container import read_arrays, read_header
from foreseer.files.png import MOST_PNG_BYTES, check_png
from foreseer.files.reading import read_json, read_names, read_strings, read_text, read_whole, reason, shortened
from foreseer.files.writing import write_atomically

__all__ = [
    "MOST_PNG_BYTES",
    "Artifact",
    "check_png",
    "checksum",
    "kind_of",
    "read_arrays",
    "read_header",
    "read_json",
    "read_names",
    "read_strings",
    "read_text",
    "read_whole",
    "reason",
    "shortened",
    "write_atomically",
]
