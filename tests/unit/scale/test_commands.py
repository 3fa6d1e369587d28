"""The commands with ``--workers`` and ``--ray`` give what they give without."""

import json
import os
import sys

import pytest

from foreseer import cli
from foreseer.kernel import Kernel
from foreseer.kernel.kernel_file import encode_kernel
from foreseer.plan import Plan

SIZE = ("--height", 32, "--width", 32, "--dtype", "float32", "--device", "cpu")
PLACES = {"here": (), "processes": ("--workers", 2), "ray": ("--ray", "local", "--workers", 2)}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("a red apple\na rocket")
    return file


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    assert not stop.value.code


@pytest.mark.slow
def test_every_command_gives_the_same_in_every_place(tmp_path, prompts, monkeypatch, capsys):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    kernels, plans, pictures, rows = {}, {}, {}, {}
    for name, place in PLACES.items():
        folder = tmp_path / name
        common = ("--prompts", prompts, *SIZE, *place)
        run("calibrate", "emoji", *common, "--steps", 5, "-o", folder / "k.safetensors")
        run("rollout", "emoji", folder / "k.safetensors", *common, "--nfe", 2, "-o", folder / "p.safetensors")
        run("generate", "emoji", *common, "--steps", 5, "--plan", folder / "p.safetensors", "-o", folder / "out")
        capsys.readouterr()
        run("bench", "emoji", *common, "--steps", 5, "--nfe", 2, "--methods", "reuse", "-o", folder / "b", "--json")
        printed = json.loads(capsys.readouterr().out)
        kernels[name] = encode_kernel(Kernel.load(folder / "k.safetensors"))
        plans[name] = Plan.load(folder / "p.safetensors").rows.tobytes()
        pictures[name] = [path.read_bytes() for path in sorted((folder / "out").glob("*.png"))]
        rows[name] = [(row["method"], row["nfe"], row["per_prompt"]) for row in printed["rows"]]
        assert not list(folder.glob(".*.partial"))
    for results in (kernels, plans, pictures, rows):
        assert results["here"] == results["processes"] == results["ray"]
    assert len(pictures["here"]) == 2
