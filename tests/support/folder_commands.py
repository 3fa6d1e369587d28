"""The commands on a whole pipeline in a folder: calibrate, generate, bench."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image
from typer.testing import CliRunner

import foreseer as fs
from foreseer.cli import app

STEPS, NFE, SIZE = 6, 4, 32
TITLES = {"reuse": "Reuse", "taylorseer": "TaylorSeer"}


class Family(NamedTuple):
    """Options of every command, branches of guidance, frames of a video, methods to compare."""

    options: list[str]
    branches: int = 1
    frames: int | None = None
    steps: int = STEPS
    nfe: int = NFE
    methods: tuple[str, ...] = ("reuse", "taylorseer")
    size: int = SIZE


def invoke(*words: Any) -> str:
    """What a command prints, once it succeeded."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output or result.exception
    return result.stdout


def calibrate_draw_and_compare(model: Path, place: Path, family: Family) -> Path:
    """Calibrate, draw with the kernel and with a method, and compare; return the report, in ``place``."""
    options, branches, frames, steps, nfe, methods, size = family
    common = ("--steps", steps, "--height", size, "--width", size, *options)
    prompts, kernel = place / "prompts.txt", place / "one.kernel.safetensors"
    prompts.write_text("a red apple\na blue boat\n")
    invoke("calibrate", model, "--prompts", prompts, "-o", kernel, *common)
    known = fs.Kernel.load(kernel)
    assert (known.prompts, len(known.grid)) == (2, steps)

    drawn = place / ("drawn.gif" if frames else "drawn.png")
    for how in (("--kernel", kernel), ("--method", "taylorseer")):
        words = ("generate", model, "-p", "a red apple", *how, "--nfe", nfe, "-o", drawn, "--json")
        made = json.loads(invoke(*words, *common))
        assert made["record"]["nfe"] == nfe
        assert made["record"]["forward_passes"] == nfe * branches
        assert made["record"]["failed_open"] == []
        with Image.open(drawn) as picture:
            assert picture.size == (size, size)
            assert getattr(picture, "n_frames", 1) == (frames or 1)

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
        assert math.isfinite(row["measures"]["psnr"])
        assert 0 < row["measures"]["ssim"] < 1
        assert row["flops_speedup"] > 1
    assert rows["Reuse"]["flops_speedup"] == pytest.approx(steps / nfe, rel=1e-3)  # its site is the output
    return place / "report" / "report.html"
