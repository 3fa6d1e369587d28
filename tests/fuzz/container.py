"""Safetensors files taken apart and damaged on purpose, independent of Foreseer's reader."""

import hashlib
import json
import math
import struct
from dataclasses import dataclass

DTYPES = ("F64", "F32", "I64", "F16", "BF16", "F8_E4M3", "I32", "U8", "BOOL", "C64", "Q7", "", "f64", "object")
SPECIAL_FLOATS = (float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324, -0.0, 0.0, 1.0, -1.0, 2.0, 1e-9)
SPECIAL_INTS = (-1, 0, 1, 2, 2**31, 2**62, -(2**63), 2**63 - 1, 9, 10)
SIZES = (-1, 0, 1, 2, 3, 7, 2**31, 2**40, 2**63, 2**64, 10**30, 1.0, 0.5, "1", None, True, [1], {})
WORDS = (
    *(
        "",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "0",
        "1",
        "2",
        "01",
        "+1",
        "1.0",
        "999999",
        "9" * 5000,
        "\u00b2",
        "\uff11",
    ),
    *(
        "[]",
        "{}",
        "null",
        '"a"',
        '[["a", "b"]]',
        '{"a": 1}',
        '{"a": "b", "a": "c"}',
        '["a", "a"]',
        "[1]",
        "[[]]",
        "NaN",
    ),
    *("[" * 50_000, '{"a":' * 20_000, "1" * 20_000, "{'a': 1}", '{"a": "\\ud800"}', "\ud800", "\0", "x" * 100_000),
    *("sigma", "timestep", "output", "last_block", "change(blocks=[0, 1])", "change(blocks=" + "[" * 5000, "output("),
    *("foreseer.plan", "foreseer.kernel", "__import__('os').system('true')", "c" * 64),
)
WIDTHS = {"F64": (8, "<d"), "F32": (4, "<f"), "I64": (8, "<q"), "U8": (1, "B")}


@dataclass
class Parts:
    """A file's header, apart, and its data."""

    metadata: dict
    entries: dict
    data: bytearray

    @classmethod
    def of(cls, content):
        """The parts of a good file."""
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        return cls(header.pop("__metadata__"), header, bytearray(content[8 + length :]))

    def file(self):
        """The file that they make."""
        text = json.dumps({"__metadata__": self.metadata, **self.entries}).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + bytes(self.data)

    def mend_checksum(self):
        """Make the checksum true of what is there, as far as that has one: what lies deeper is then reached."""
        digest = hashlib.sha256()
        names = {"F64": "float64", "F32": "float32", "I64": "int64"}
        try:
            for name in sorted(self.entries):
                entry = self.entries[name]
                begin, end = entry["data_offsets"]
                shape = "(" + ", ".join(map(str, entry["shape"])) + ("," if len(entry["shape"]) == 1 else "") + ")"
                digest.update(f"{name} {names[entry['dtype']]} {shape} ".encode() + self.data[begin:end])
            for key in sorted(key for key in self.metadata if key != "checksum"):
                value = self.metadata[key]
                digest.update(f"{len(key)} {key} {len(value)} {value} ".encode())
        except (KeyError, TypeError, ValueError):
            return
        self.metadata["checksum"] = digest.hexdigest()


def values(parts, rng):
    """One to three numbers of an array are others."""
    entry = parts.entries[rng.choice(list(parts.entries))]
    width, code = WIDTHS[entry["dtype"]]
    begin, end = entry["data_offsets"]
    for _ in range(rng.randint(1, 3)):
        if end > begin:
            place = begin + width * rng.randrange((end - begin) // width)
            value = rng.choice(SPECIAL_INTS if entry["dtype"] == "I64" else SPECIAL_FLOATS)
            if code == "B":
                value = rng.randrange(256)
            if code == "<f" and math.isfinite(value):
                value = max(min(value, 3e38), -3e38)
            parts.data[place : place + width] = struct.pack(code, value)


def shapes(parts, rng):
    """A shape has another size, dimension or kind."""
    entry = parts.entries[rng.choice(list(parts.entries))]
    shape = list(entry["shape"])
    match rng.randrange(5):
        case 0 if shape:
            shape[rng.randrange(len(shape))] = rng.choice(SIZES)
        case 1:
            shape.append(rng.choice((1, 0, *SIZES)))
        case 2 if shape:
            shape.pop()
        case 3:
            shape.reverse()
        case _:
            shape = rng.choice((None, "2", 3, {}, [], [1] * 40, [2**32, 2**32], [[]]))
    entry["shape"] = shape


def resized(parts, rng):
    """An array is truly smaller or larger, everything else in its place."""
    name = rng.choice(list(parts.entries))
    entry = parts.entries[name]
    if not entry["shape"]:
        return
    axis = rng.randrange(len(entry["shape"]))
    old, width = list(entry["shape"]), WIDTHS[entry["dtype"]][0]
    entry["shape"][axis] = max(0, old[axis] + rng.choice((-2, -1, 1, 2, 5)))
    size = width
    for one in entry["shape"]:
        size *= one
    if size > 2**24:
        return
    begin, end = entry["data_offsets"]
    parts.data[begin:end] = (bytes(parts.data[begin:end]) + bytes(size))[:size]
    for other in parts.entries.values():
        first, last = other["data_offsets"]
        if first >= end and other is not entry:
            other["data_offsets"] = [first + size - (end - begin), last + size - (end - begin)]
    entry["data_offsets"] = [begin, begin + size]


def dtypes(parts, rng):
    """An array is of another dtype."""
    parts.entries[rng.choice(list(parts.entries))]["dtype"] = rng.choice((*DTYPES, None, 8, []))


def offsets(parts, rng):
    """An array lies elsewhere, on another, or nowhere."""
    entry, other = (parts.entries[rng.choice(list(parts.entries))] for _ in range(2))
    match rng.randrange(4):
        case 0:
            entry["data_offsets"][rng.randrange(2)] = rng.choice(SIZES)
        case 1:
            entry["data_offsets"], other["data_offsets"] = other["data_offsets"], entry["data_offsets"]
        case 2:
            entry["data_offsets"] = [one + rng.choice((-8, 8, 1)) for one in entry["data_offsets"]]
        case _:
            entry["data_offsets"] = rng.choice(
                (None, [], [0], [0, 8, 16], "0,8", {"0": 8}, list(other["data_offsets"]))
            )


def words(parts, rng):
    """A word of the metadata is another."""
    parts.metadata[rng.choice(list(parts.metadata))] = rng.choice(WORDS)


def version(parts, rng):
    """The file is of another version, often a later one."""
    parts.metadata["version"] = rng.choice(
        ("2", "3", "10", "999", "0", "-1", "1.1", "v1", "", " 1", "1 ", "9" * 5000, "\u0661")
    )


def names(parts, rng):
    """Arrays, metadata and parts of entries are missing, renamed or one too many."""
    place = rng.choice((parts.entries, parts.metadata, parts.entries[rng.choice(list(parts.entries))]))
    key = rng.choice(list(place))
    match rng.randrange(3):
        case 0:
            del place[key]
        case 1:
            place[rng.choice(("extra", "", "__class__", "rows ", "x" * 5000, "\ud800", "noise_levels"))] = place.pop(
                key
            )
        case _:
            place[rng.choice(("extra", "branches", "__metadata__", "grams"))] = rng.choice(
                (place[key], "[]", 1, None, {}, [])
            )


STRUCTURAL = {made.__name__: made for made in (values, shapes, resized, dtypes, offsets, words, version, names)}


def header_text(content, rng):
    """The header as text is no header: cut, doubled, padded, of another length, deep, or of another kind."""
    length = struct.unpack("<Q", content[:8])[0]
    text, data = content[8 : 8 + length], content[8 + length :]
    match rng.randrange(7):
        case 0:
            lengths = (0, 1, length - 1, length + 1, length + 8, 2**18, 2**20, 2**31, 2**63, 2**64 - 1, len(content))
            return struct.pack("<Q", rng.choice(lengths)) + text + data
        case 1:
            text = text.strip()[:-1] + b', "rows": {}, "rows": {}}'
        case 2:
            text = rng.choice((b"[]", b"{}", b"null", b"1", b'""', b"NaN", b"", b" ", b"\xff\xfe", b"{}{}"))
        case 3:
            text = b'{"a":' * rng.choice((10, 1000, 40_000))
        case 4:
            text = text + b" " * rng.choice((1, 8, 2**16, 2**18))
        case 5:
            text = b"{" + b",".join(b'"%d":{}' % one for one in range(rng.choice((10, 20_000)))) + b"}"
        case _:
            text = b'{"__metadata__": ' + text.strip() + b"}"
    return struct.pack("<Q", len(text)) + text + data
