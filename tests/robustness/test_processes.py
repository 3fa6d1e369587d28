"""One run shared by two processes, each with a part of the tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
from torch import distributed

import foreseer as fs
from foreseer.errors import AttachError
from tests.robustness.cells import ROOT
from tests.robustness.served import COMPUTED, FORECAST
from tests.support.attaching import tiny
from tests.support.pipelines import build

ON_FEATURES = fs.gate.StepControl()


def ranks(site: str, name: str, folder: Path, world: int = 2) -> list[dict[str, Any]]:
    """What each of ``world`` processes reports."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.robustness.ranks", str(rank), str(world), str(folder / "store"), site, name],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    reports = []
    for one in running:
        try:
            out, err = one.communicate(timeout=240)
        finally:
            for other in running if one.returncode is None else ():
                other.kill()
        assert one.returncode == 0, err[-3000:]
        reports.append(json.loads(out.splitlines()[-1]))
    return reports


@pytest.mark.slow
@pytest.mark.cell("hosts", "context parallelism in two processes (gloo): equal images on both", "works")
@pytest.mark.parametrize("site", ["output", "last_block"])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_context_parallelism(name: str, site: str, tmp_path: Path) -> None:
    if not hasattr(diffusers, "ContextParallelConfig") or not distributed.is_gloo_available():
        pytest.skip("needs a diffusers with ContextParallelConfig, and gloo")
    first, second = ranks(site, name, tmp_path)
    branches = tiny(name).branches
    assert first == second
    assert first["forecast"] == dict.fromkeys(branches, FORECAST)
    assert first["computed"] == dict.fromkeys(branches, COMPUTED)
    assert first["failed_open"] == []
    assert first["plain"][0] == first["plain"][1] != first["accelerated"][0] == first["accelerated"][1]
    assert max(first["from_alone"]) < 1e-4


@pytest.mark.cell("hosts", "context parallelism with a gate that looks inside the network", "refused")
@pytest.mark.parametrize(("gate", "site"), [(fs.gate.TeaCache(), "output"), (ON_FEATURES, "last_block")], ids=str)
def test_a_gate_that_sees_a_part(gate: fs.gate.Gate, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = build("flux").pipe
    config = SimpleNamespace(context_parallel_config=object())
    monkeypatch.setattr(pipe.transformer, "_parallel_config", config, raising=False)
    with pytest.raises(AttachError, match="the processes could decide differently"):
        fs.accelerate(pipe, fs.GatedPolicy(gate, fs.forecast.Newton(order=1), site=site))
    fs.accelerate(pipe, fs.GatedPolicy(ON_FEATURES, fs.forecast.Newton(order=1))).detach()
