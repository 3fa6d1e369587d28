"""The row of pictures in a profile: kept as bytes, limited, and never decoded by Foreseer."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foreseer.files import MOST_PNG_BYTES, check_png
from foreseer.kernel.kernel_file import encode_kernel
from foreseer.methods.profile import PROFILE_FILE, Profile, ProfileError
from tests.support.toy_gates import KERNEL


def png(width: int = 130, height: int = 64) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def test_a_thumbnail_comes_back_from_the_file(tmp_path: Path) -> None:
    Profile(KERNEL, thumbnail=png()).save(tmp_path / "a.profile.safetensors")
    again = Profile.load(tmp_path / "a.profile.safetensors")
    assert again.thumbnail == again._repr_png_() == png()


HOSTILE = {
    "not a PNG": b"GIF89a" + bytes(100),
    "another PNG's chunk first": png().replace(b"IHDR", b"XXXX"),
    "130000 x 64 pixels": png().replace((130).to_bytes(4, "big"), (130_000).to_bytes(4, "big"), 1),
    "0 x 64": png().replace((130).to_bytes(4, "big"), bytes(4), 1),
    "too many bytes": png() + bytes(MOST_PNG_BYTES),
    "cut off": png()[:14],
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_thumbnail_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its picture"):
        check_png(content)
    with pytest.raises(ProfileError, match="thumbnail cannot be used"):
        Profile(KERNEL, thumbnail=content)
    write(tmp_path / "a.profile.safetensors", [("kernel", encode_kernel(KERNEL)), ("thumbnail", content)])
    with pytest.raises(ProfileError, match="does not hold a valid profile: The thumbnail cannot be used"):
        Profile.load(tmp_path / "a.profile.safetensors")


def write(path: Path, parts: list[tuple[str, bytes]], **metadata: str) -> None:
    content = np.frombuffer(b"".join(data for _, data in parts), np.uint8)
    described = {"parts": json.dumps([[kind, len(data)] for kind, data in parts]), "provenance": "{}", **metadata}
    PROFILE_FILE.save(path, {"parts": content}, described)


def test_files_of_version_1_load(tmp_path: Path) -> None:
    write(tmp_path / "old.profile.safetensors", [("kernel", encode_kernel(KERNEL))], version="1")
    assert b'"version":"1"' in (tmp_path / "old.profile.safetensors").read_bytes()
    assert Profile.load(tmp_path / "old.profile.safetensors").thumbnail is None


def test_two_thumbnails_are_refused(tmp_path: Path) -> None:
    parts = [("kernel", encode_kernel(KERNEL)), ("thumbnail", png()), ("thumbnail", png())]
    write(tmp_path / "a.profile.safetensors", parts)
    with pytest.raises(ProfileError, match="1 kernels and 2 thumbnails"):
        Profile.load(tmp_path / "a.profile.safetensors")
