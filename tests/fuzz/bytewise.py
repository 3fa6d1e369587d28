"""Files damaged byte by byte, whatever they hold."""

import struct


def truncated(content, rng):
    """Cut off, often where something ends."""
    return content[: rng.choice((rng.randrange(len(content)), 0, 1, 7, 8, 9, len(content) - 1, len(content) - 8))]


def extended(content, rng):
    """More behind the end."""
    return content + rng.choice((b"\0", b"\n", b"}", rng.randbytes(rng.randint(1, 64)), content, bytes(8)))


def flipped(content, rng):
    """One to four bits are others."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def flipped_early(content, rng):
    """A bit of the first 400 bytes is another: a header's."""
    damaged = bytearray(content)
    damaged[rng.randrange(min(400, len(damaged)))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def overwritten(content, rng):
    """A run of bytes is another."""
    place, length = rng.randrange(len(content)), rng.randint(1, 32)
    run = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length), b"9" * length))
    return content[:place] + run + content[place + length :]


def inserted(content, rng):
    """A run of bytes is put in, or taken out."""
    place, length = rng.randrange(len(content)), rng.randint(1, 16)
    return content[:place] + (
        rng.randbytes(length) + content[place:] if rng.random() < 0.5 else content[place + length :]
    )


def swapped(content, rng):
    """Two blocks have changed places, as a file system may do."""
    size = max(1, len(content) // 8)
    first, second = sorted(rng.randrange(8) * size for _ in range(2))
    if second < first + size:
        return content[:first] + bytes(size) + content[first + size :]
    between = content[first + size : second]
    return (
        content[:first]
        + content[second : second + size]
        + between
        + content[first : first + size]
        + content[second + size :]
    )


def foreign(content, rng):
    """Another format altogether."""
    other = b'{"weight": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}}   '
    return rng.choice(
        (
            struct.pack("<Q", len(other)) + other + bytes(8),
            b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a.",
            b"\x80\x04c__builtin__\neval\n(S'print(1)'\ntR.",
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}",
            b"PK\x03\x04" + bytes(100),
            b"<html></html>",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            rng.randbytes(rng.randint(1, 4096)),
            bytes(rng.randint(1, 4096)),
            b"1 " * rng.choice((10, 5000)),
            b"[" * rng.choice((10, 100_000)),
            b"\xef\xbb\xbf" + content,
            "\u00e9\u2028\U0001f600".encode() * rng.randint(1, 50),
        )
    )


BYTEWISE = {
    made.__name__: made
    for made in (truncated, extended, flipped, flipped_early, overwritten, inserted, swapped, foreign)
}
