"""Gates on the command line."""

import json

import pytest

import foreseer as fs
from tests.unit.cli.test_cli import run

DRAW = ("generate", "emoji", "-p", "a red apple on a white background", "--steps", "20")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "explain", "forecast-error"], "has no plan"),
        (["plan", "forecast-error"], "has no plan"),
        ([*DRAW, "--gated", "--max-error", "0.1"], "--kernel"),
        ([*DRAW, "--kernel", fs.zoo.kernel_path(), "--gated", "--speedup", "5"], "--max-error"),
        ([*DRAW, "--kernel", fs.zoo.kernel_path(), "--gated"], "--max-error"),
        ([*DRAW, "--kernel", fs.zoo.kernel_path(), "--nfe", "5", "--max-nfe", "7"], "--gated"),
    ],
)
def test_bad_usage_is_told(capsys, arguments, words):
    code, _, err = run(capsys, *arguments)
    assert code != 0
    assert words in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "how",
    [
        ("--kernel", fs.zoo.kernel_path(), "--gated", "--max-error", "0.05", "--max-nfe", "7"),
        ("--method", "forecast-error", "--nfe", "7"),
    ],
    ids=["kernel", "method"],
)
def test_generate_tells_what_an_image_cost(capsys, tmp_path, how):
    code, out, _ = run(capsys, *DRAW, *how, "-o", tmp_path / "one.png", "--json")
    assert code == 0
    record = json.loads(out)["record"]
    assert 3 <= record["nfe"] <= 7
    assert record["failed_open"] == []
    assert sum(len(steps) for steps in record["forecast"].values()) == 20 - record["nfe"]
