"""What is written: whole or not at all, over regular files only, and nothing else stays."""

import os
import stat
import subprocess
import sys
import time

import pytest
from PIL import Image

from foreseer.errors import PlanFileError
from foreseer.files import write_atomically
from foreseer.files.writing import FormatError, write_encoded
from foreseer.plan import Plan
from tests.fuzz.subjects import make_plan

PLAN = make_plan(8, 1)


@pytest.mark.parametrize("link", [False, True])
def test_no_pipe_or_device_is_replaced(tmp_path, link):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    if link:
        path = tmp_path / "link"
        path.symlink_to("pipe")
    with pytest.raises(PlanFileError, match=r"Cannot write .*not a regular file"):
        PLAN.save(path)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert len(os.listdir(tmp_path)) == 1 + link


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to("target")
    PLAN.save(tmp_path / "link")
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()
    assert Plan.load(tmp_path / "link") == PLAN


def test_what_a_killed_writer_left_is_taken_away_by_the_next(tmp_path):
    names = [f".kept.plan.{index:012x}" for index in range(5)]
    others = [".kept.plan.notes", ".other.plan.000000000000", "kept.plan.000000000000"]
    for name in (*names, *others):
        (tmp_path / name).write_bytes(b"part")
    os.mkfifo(tmp_path / ".kept.plan.ffffffffffff")
    PLAN.save(tmp_path / "kept.plan")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".kept.plan.ffffffffffff", "kept.plan"])


def test_the_part_of_a_living_writer_is_left(tmp_path):
    program = (
        "import os, sys, time; from pathlib import Path; from foreseer.files import write_atomically\n"
        "os.fsync = lambda descriptor: (print('written', flush=True), sys.stdin.readline())\n"
        f"write_atomically(Path({str(tmp_path)!r}) / 'kept', b'first' * 1000)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"written\n"
        write_atomically(tmp_path / "kept", b"second")
        assert len(os.listdir(tmp_path)) == 2
        assert (tmp_path / "kept").read_bytes() == b"second"
        first.communicate(b"\n", timeout=60)
    assert first.returncode == 0
    assert (tmp_path / "kept").read_bytes() == b"first" * 1000
    assert os.listdir(tmp_path) == ["kept"]


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path):
    program = (
        "import sys; from pathlib import Path; from foreseer.files import write_atomically\n"
        f"for _ in range(50): write_atomically(Path({str(tmp_path)!r}) / 'kept', sys.argv[1].encode() * 5000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, letter]) for letter in "abc"]
    until = time.monotonic() + 120
    while any(writer.poll() is None for writer in writers) and time.monotonic() < until:
        if (tmp_path / "kept").exists():
            content = (tmp_path / "kept").read_bytes()
            assert content in (b"a" * 5000, b"b" * 5000, b"c" * 5000)
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["kept"]


def test_a_picture_that_cannot_be_encoded_leaves_the_old_one(tmp_path):
    kept = tmp_path / "kept.jpg"
    kept.write_bytes(b"old")
    transparent = Image.new("RGBA", (2, 2))
    for path, words in ((kept, "RGBA"), (tmp_path / "new.xyz", "XYZ")):
        with pytest.raises(FormatError, match=words):
            write_encoded(path, lambda buffer, kind: transparent.save(buffer, kind.upper().replace("JPG", "JPEG")))
    assert kept.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept.jpg"]


def test_equal_artifacts_are_equal_files():
    from foreseer import zoo
    from foreseer.kernel import Kernel
    from foreseer.kernel.kernel_file import decode_kernel, encode_kernel

    content = encode_kernel(Kernel.load(zoo.kernel_path()))
    assert {encode_kernel(decode_kernel(content, Kernel)) for _ in range(8)} == {content}
