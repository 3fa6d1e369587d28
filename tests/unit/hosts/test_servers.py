"""Needs of servers: inert plugins, processes that decide alike, batches at different steps."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import foreseer as fs
from foreseer.errors import AttachError
from foreseer.hosts.choice import Choice
from foreseer.hosts.plugins import OptionsError, sglang, vllm_omni
from tests.unit.hosts.halves import STEPS

ROOT = Path(__file__).parents[3]
GROUPS = {"sglang.multimodal_gen.plugins": "sglang", "vllm_omni.general_plugins": "vllm_omni"}


def python(*arguments: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment).stdout


def test_the_entry_points_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group, function in GROUPS.items():
        assert project["entry-points"][group] == {"foreseer": f"foreseer.hosts.plugins:{function}"}


def test_hosts_stay_thin() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "src/foreseer/hosts").rglob("*.py")}
    assert max(lengths.values()) <= 200


def test_plugins_that_are_not_chosen_import_nothing_heavy() -> None:
    program = (
        "import json, sys; from foreseer.hosts import plugins; plugins.sglang(); plugins.vllm_omni(); "
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    assert {"torch", "numpy", "diffusers", "sglang"}.isdisjoint(json.loads(python("-c", program)))


def test_the_comfyui_pack_needs_no_diffusers() -> None:
    program = (
        "import sys; sys.modules['diffusers'] = sys.modules['transformers'] = None; "
        "from foreseer.hosts.comfyui import patch, recording; print('imported')"
    )
    assert python("-c", program) == "imported\n"


@pytest.mark.parametrize("early", [True, False])
def test_the_vllm_omni_plugin_patches_the_runner_whenever_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    folder = tmp_path / "vllm_omni" / "diffusion" / "worker"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    (folder / "diffusion_model_runner.py").write_text("def get_cache_backend(name, config):\n    return name\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    finders = list(sys.meta_path)
    name = "vllm_omni.diffusion.worker.diffusion_model_runner"
    try:
        for load in (vllm_omni, lambda: importlib.import_module(name))[:: 1 if early else -1]:
            load()
        runner = sys.modules[name]
        assert runner.get_cache_backend("tea_cache", {}) == "tea_cache"
        assert repr(runner.get_cache_backend("foreseer", {"nfe": 5})) == "ForeseerBackend(config={'nfe': 5})"
        assert sys.meta_path == finders
    finally:
        for module in [module for module in sys.modules if module.split(".")[0] == "vllm_omni"]:
            del sys.modules[module]


@pytest.mark.parametrize("text", ["{", "3", '["speedup"]'])
def test_options_that_are_no_object_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FORESEER_SGLANG", text)
    with pytest.raises(OptionsError, match="FORESEER_SGLANG is"):
        sglang()


def test_two_processes_with_half_of_the_sequence_each_decide_alike(tmp_path: Path) -> None:
    """Also where one of them meets a NaN: nobody looks at values, so nobody waits for the other."""
    store = tmp_path / "store"
    command = [sys.executable, "-m", "tests.unit.hosts.halves"]
    processes = [
        subprocess.Popen([*command, str(rank), "2", str(store)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in range(2)
    ]
    first, second = (json.loads(process.communicate(timeout=300)[0]) for process in processes)
    assert first["computed"] == second["computed"]
    assert first["calls"] == second["calls"] == STEPS // 3
    assert max(first["error"], second["error"]) < 1e-5
    assert first["spoiled"] == second["spoiled"] == first["computed"]
    assert first["spoiled_calls"] == second["spoiled_calls"]
    assert not second["finite"]  # the NaN was met


def test_gates_are_refused_where_processes_must_agree() -> None:
    gated = fs.methods.find("forecast-error").policy()
    with pytest.raises(AttachError, match="Use a schedule"):
        fs.Run(gated, fs.Grid.uniform(8), parallel=True)


class ContinuousBatch:
    """A server that advances all requests by a step per turn, in one call of the network.

    The network's arithmetic per request does not depend on the rest of the batch: elementwise, and one request's sums.
    """

    def __init__(self) -> None:
        self.runs, self.sizes = fs.Runs(), []

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        self.sizes.append(len(x))
        mean = torch.stack([one.mean() for one in x])[:, None]
        return torch.sin(2.0 * x + t[:, None]) + 0.3 * mean

    def turn(self, requests: list[dict[str, Any]]) -> None:
        calls = [fs.RunCall(one["id"], one["step"], one["grid"], policy=one["policy"]) for one in requests]

        def compute(indices: list[int]) -> list[Tensor]:
            levels = torch.tensor([requests[i]["grid"].levels[requests[i]["step"]] for i in indices])
            return list(self.network(torch.stack([requests[i]["x"] for i in indices]), levels.float()))

        for one, output in zip(requests, self.runs.answer(calls, compute), strict=True):
            one["x"] = one["x"] - output / len(one["grid"])
            one["step"] += 1


def requests() -> list[dict[str, Any]]:
    """Eight requests: lengths, budgets and arrival all differ."""
    made = []
    for index, (steps, speedup) in enumerate([(8, 1), (11, 2), (20, 4), (9, 3), (30, 5), (15, 2), (6, 2), (24, 3)]):
        grid = fs.Grid.uniform(steps)
        policy = Choice(speedup=float(speedup)).policy(grid)
        if policy is None:
            policy = fs.Policy(fs.schedule.Uniform(1), fs.forecast.Reuse())
        x = torch.randn(12, generator=torch.Generator().manual_seed(index))
        made.append({"id": f"request {index}", "grid": grid, "policy": policy, "x": x, "step": 0, "arrives": 2 * index})
    return made


def test_a_continuous_batch_of_eight_requests_is_bit_equal_to_each_alone() -> None:
    batch, together, turn = ContinuousBatch(), requests(), 0
    most_together, records = 0, {}
    while any(one["step"] < len(one["grid"]) for one in together):
        live = [one for one in together if one["arrives"] <= turn and one["step"] < len(one["grid"])]
        batch.turn(live)
        most_together, turn = max(most_together, len(live)), turn + 1
        for one in live:
            if one["step"] == len(one["grid"]):
                records[one["id"]] = batch.runs.end(one["id"])
    assert most_together >= 6
    assert len(batch.runs) == 0
    assert sum(batch.sizes) == sum(record.forward_passes for record in records.values())
    for one, fresh in zip(together, requests(), strict=True):
        alone = ContinuousBatch()
        while fresh["step"] < len(fresh["grid"]):
            alone.turn([fresh])
        assert torch.equal(one["x"], fresh["x"])
        assert records[one["id"]].nfe == sum(alone.sizes)
    assert {len(one["grid"]) // records[one["id"]].nfe for one in together} >= {1, 2, 3, 5}
