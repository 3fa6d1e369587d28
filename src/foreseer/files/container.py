"""The safetensors container: a header that is checked in full, and views of the data behind it.

Format (https://huggingface.co/docs/safetensors): length of the header (8 bytes, little endian), a JSON object, data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from foreseer.files.reading import read_json, shortened

MOST_HEADER = 2**18  # bytes; typical headers have a few hundred. Parsed JSON may take 25 times as much memory
MOST_SIZES = 8
DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "U8": np.dtype("u1")}


def read_header(content: bytes) -> tuple[dict[str, str], dict[str, Any], int]:
    """Return the metadata of a file, the entries of its arrays, and the offset of its data.

    Raises:
        ValueError: it is not a safetensors file, or its header is too long.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError(f"its {len(content)} bytes are not a safetensors file")
    if length > MOST_HEADER:
        raise ValueError(f"its header has {length} bytes, expected at most {MOST_HEADER}")
    header = read_json(content[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata holds values that are not strings")
    return metadata, header, 8 + length


def read_arrays(content: bytes, start: int, header: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return read-only views of the arrays, which must fill the data without gap or overlap.

    Raises:
        ValueError: an entry is malformed, or does not match the data.
    """
    places = {name: _place(name, entry) for name, entry in header.items()}
    arrays, end = {}, 0
    for name, (dtype, shape, begin, until) in sorted(places.items(), key=lambda place: place[1][2:]):
        fills = begin == end and until - begin == dtype.itemsize * math.prod(shape) and start + until <= len(content)
        if not fills:
            raise ValueError(f"{shortened(repr(name), 60)} of shape {shape} does not match its offsets in the header")
        arrays[name] = np.ndarray(shape, dtype, content, start + begin)
        end = until
    if start + end != len(content):
        raise ValueError(f"{len(content) - start - end} bytes belong to no array")
    return arrays


def _place(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Return dtype, shape, begin and end of an array from its header entry."""
    shown = shortened(repr(name), 60)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shown} has no dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        whole = isinstance(numbers, list) and all(type(number) is int and 0 <= number < 2**48 for number in numbers)
        if not whole or len(numbers) > MOST_SIZES:
            raise ValueError(f"{shown} has invalid sizes or offsets: {shortened(repr(numbers), 60)}")
    if len(offsets) != 2:
        raise ValueError(f"{shown} has {len(offsets)} offsets, expected 2")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise ValueError(f"{shown} is {shortened(repr(entry['dtype']), 60)}, expected one of {', '.join(DTYPES)}")
    return DTYPES[entry["dtype"]], tuple(shape), offsets[0], offsets[1]
