"""The commands on a whole pipeline in a folder: calibrate, generate, bench."""

from __future__ import annotations

import json
import math
import wave
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import foreseer as fs
from foreseer.cli import app
from tests.support.folder_table import SIZE, Family

TITLES = {"reuse": "Reuse", "taylorseer": "TaylorSeer"}


def invoke(*words: Any) -> str:
    """What a command prints, once it succeeded."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output or result.exception
    return result.stdout


def given_files(place: Path) -> dict[str, Path]:
    """Files that the options of a family name: two pictures and a video of five frames."""
    ramp = Image.linear_gradient("L").resize((2 * SIZE, 2 * SIZE))
    frames = [ramp.rotate(90 * number).convert("RGB") for number in range(5)]
    files = {name: place / f"given-{name}" for name in ("picture.png", "other.png", "video.gif")}
    frames[0].save(files["picture.png"])
    frames[1].save(files["other.png"])
    frames[0].save(files["video.gif"], save_all=True, append_images=frames[1:])
    return {name.partition(".")[0]: path for name, path in files.items()}


def call_of(family: Family, place: Path) -> list[Any]:
    """Arguments of every command on a family."""
    files = given_files(place)
    sizes = [] if family.size is None else ["--height", family.size, "--width", family.size]
    return ["--steps", family.asked or family.steps, *sizes, *(word.format(**files) for word in family.options)]


def draw(model: Path, place: Path, family: Family, *how: Any) -> dict[str, Any]:
    """Draw, check what was written, and return the record."""
    suffix = "gif" if family.frames else "wav" if family.sound else "png"
    drawn = place / f"drawn.{suffix}"
    words = ("generate", model, "-p", "a red apple", *how, "--nfe", family.nfe, "-o", drawn, "--json")
    made = json.loads(invoke(*words, *call_of(family, place)))
    record = made["record"]
    assert record["nfe"] == family.nfe
    assert record["forward_passes"] == family.nfe * family.branches
    assert record["failed_open"] == []
    if family.sound:
        with wave.open(str(drawn.with_suffix(".wav"))) as sound:
            assert sound.getnframes() > 1
    if family.sound != "alone":
        with Image.open(made["path"]) as picture:
            assert family.drawn is None or picture.size == (family.drawn, family.drawn)
            assert 1 <= getattr(picture, "n_frames", 1) <= (family.frames or 1)  # equal frames of a GIF are one
    return record


def calibrate_draw_and_compare(model: Path, place: Path, family: Family) -> Path:
    """Calibrate, draw with the kernel and with a method, and compare; return the report, in ``place``."""
    steps, nfe, methods = family.steps, family.nfe, family.methods
    common = call_of(family, place)
    prompts, kernel = place / "prompts.txt", place / "one.kernel.safetensors"
    prompts.write_text("a red apple\na blue boat\n")
    invoke("calibrate", model, "--prompts", prompts, "-o", kernel, *common)
    known = fs.Kernel.load(kernel)
    assert (known.prompts, len(known.grid)) == (2, steps)
    for how in (("--kernel", kernel), ("--method", methods[-1])):
        draw(model, place, family, *how)

    words = ("bench", model, "--prompts", prompts, "--limit", 1, "--nfe", nfe, "--methods", ",".join(methods))
    report = json.loads(
        invoke(*words, "--kernel", kernel, "--measures", "psnr,ssim", "-o", place / "report", "--json", *common)
    )
    rows = {row["title"]: row for row in report["rows"]}
    reference = rows.pop("Every step")
    assert reference["nfe"] == steps
    assert set(rows) == {"Kernel rows, searched steps", *map(TITLES.get, methods)}
    for row in rows.values():
        assert row["error"] is None
        assert row["nfe"] == nfe
        assert math.isfinite(row["latent_error"][str(steps)])
        if family.sound != "alone":
            assert math.isfinite(row["measures"]["psnr"])
            assert family.layered or 0 < abs(row["measures"]["ssim"]) < 1
        assert row["flops_speedup"] > 1
    if family.even:
        assert rows["Reuse"]["flops_speedup"] == pytest.approx(steps / nfe, rel=2e-3)  # its site is the output
    return place / "report" / "report.html"
