"""The node pack in a running ComfyUI server; skipped unless COMFYUI_PATH is set."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import foreseer as fs
from tests.unit.hosts import comfyui_real as real

pytestmark = pytest.mark.skipif(not real.COMFYUI_PATH, reason="COMFYUI_PATH names no checkout of ComfyUI")
ROOT = Path(__file__).parents[3]
PATIENCE = 900.0  # seconds; machines that test are busy
HELPERS = '''
import torch


class RandomConditioning:
    """Embeddings in place of a text encoder's."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT",), "width": ("INT",), "pooled": ("BOOLEAN",)}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, seed, width, pooled):
        generator = torch.Generator().manual_seed(seed)
        embeddings = torch.randn(1, 7, width, generator=generator)
        return ([[embeddings, {"pooled_output": torch.randn(1, 64, generator=generator)} if pooled else {}]],)


class FourConditionings(RandomConditioning):
    """A list of four, one after the other seed."""

    OUTPUT_IS_LIST = (True,)

    def make(self, seed, width, pooled):
        return ([super(FourConditionings, self).make(seed + index, width, pooled)[0] for index in range(4)],)


class ZeroLatent:
    """A latent of any shape."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"shape": ("STRING", {"default": "1 16 8 8"})}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, shape):
        return ({"samples": torch.zeros([int(size) for size in shape.split()])},)


NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in (RandomConditioning, FourConditionings, ZeroLatent)}
'''


class Server:
    """ComfyUI in a separate process and folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        for family in real.SERVED:
            weights = real.model(family, served=True).model.diffusion_model.state_dict()
            path = folder / "models" / "diffusion_models" / f"{family}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            named = {f"model.diffusion_model.{name}": tensor.contiguous() for name, tensor in weights.items()}
            safetensors.torch.save_file(named, path)
        nodes = folder / "custom_nodes"
        shutil.copytree(ROOT / "comfyui-foreseer", nodes / "comfyui-foreseer")
        (nodes / "test_helpers.py").write_text(HELPERS)
        command = [sys.executable, "main.py", "--cpu", "--disable-api-nodes", "--port", str(self.port)]
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1", "--base-directory", str(folder)],
            cwd=real.COMFYUI_PATH,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def wait_until_up(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                self.call("/system_stats")
                return
            time.sleep(2)
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    def queue(self, prompt: dict[str, Any]) -> str:
        return self.call("/prompt", {"prompt": prompt})["prompt_id"]

    def result(self, prompt_id: str) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            history = self.call(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(1)
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    def latent(self, result: dict[str, Any], node: str = "8") -> torch.Tensor:
        (saved,) = result["outputs"][node]["latents"]
        path = self.folder / "output" / saved["subfolder"] / saved["filename"]
        return safetensors.torch.load_file(path)["latent_tensor"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("comfyui"))
    try:
        running.wait_until_up()
        yield running
    finally:
        running.process.terminate()
        running.process.wait(60)
        running.log.close()


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def prompt(family: str, enabled: bool, seed: int = 5, speedup: float = 2.0, steps: int = 8, **options: Any) -> Any:
    """Model, Foreseer, sampler, report, latent; ids as in :meth:`Server.latent`."""
    shape = " ".join(map(str, real.FAMILIES[family][1]))
    text = {"width": real.SERVED[family][1], "pooled": family == "SD3"}
    widgets = {"quality": "by speedup", "method": "auto", "first_steps": 1, "last_steps": 1, **options}
    sampling = {"steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["2", 0], "positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0]}
    return {
        "1": node("UNETLoader", unet_name=f"{family}.safetensors", weight_dtype="default"),
        "2": node("Foreseer", model=["1", 0], speedup=speedup, enabled=enabled, **widgets),
        "3": node("RandomConditioning", seed=1, **text),
        "4": node("RandomConditioning", seed=2, **text),
        "5": node("ZeroLatent", shape=shape),
        "6": node("KSampler", seed=seed, **sampling, **links),
        "7": node("ForeseerReport", model=["2", 0], latent=["6", 0]),
        "8": node("SaveLatent", samples=["7", 0], filename_prefix=f"{family}-{enabled}-{seed}-{speedup}"),
    }


def test_the_nodes_are_offered_with_their_help_and_texts(server: Server) -> None:
    offered = server.call("/object_info")
    for name in ("Foreseer", "ForeseerTune", "ForeseerLoadProfile", "ForeseerSaveProfile", "ForeseerReport"):
        assert offered[name]["category"] == "model_patches/foreseer"
    for path in (ROOT / "comfyui-foreseer" / "example_workflows").glob("*.json"):
        for entry in json.loads(path.read_text())["nodes"]:
            assert entry["type"] in offered, entry["type"]
            known = {
                **offered[entry["type"]]["input"].get("required", {}),
                **offered[entry["type"]]["input"].get("optional", {}),
            }
            assert {link["name"] for link in entry["inputs"]} <= set(known), entry["type"]
            assert [output["type"] for output in entry["outputs"]] == offered[entry["type"]]["output"], entry["type"]
    assert "comfyui-foreseer" in json.dumps(server.call("/workflow_templates"))
    assert "Foreseer Tune" in json.dumps(server.call("/i18n"))


@pytest.mark.parametrize("family", real.SERVED)
def test_prompts(server: Server, family: str) -> None:
    """All computed equals the node switched off bit for bit; half computed is reported."""
    ids = [
        server.queue(prompt(family, enabled=False)),
        server.queue(prompt(family, enabled=True, speedup=1.0)),
        server.queue(prompt(family, enabled=True)),
        server.queue(prompt(family, enabled=True, seed=6)),
        server.queue(prompt(family, enabled=True)),
    ]
    results = [server.result(prompt_id) for prompt_id in ids]
    assert [result["status"]["status_str"] for result in results] == ["success"] * 5, results[0]["status"]
    plain, every, half, other = (server.latent(result) for result in results[:4])
    assert torch.equal(plain, every)
    assert not torch.equal(plain, half)
    assert not torch.equal(half, other)
    assert torch.isfinite(half).all()
    text = results[2]["outputs"]["7"]["text"][0]
    assert "8 steps: 4 calls computed, 4 forecast" in text


def test_two_prompts_queued_at_once_are_each_as_if_alone(server: Server) -> None:
    """They share the cached model that the Foreseer node patched."""
    jobs = [{"family": "SD3", "enabled": True, "speedup": 2.5, "seed": seed, "steps": 40} for seed in (21, 22)]
    with ThreadPoolExecutor(2) as pool:
        ids = list(pool.map(lambda job: server.queue(prompt(**job)), jobs))
        together = list(pool.map(server.result, ids))
    for job, result in zip(jobs, together, strict=True):
        assert result["status"]["status_str"] == "success", result["status"]
        assert "40 steps: 16 calls computed, 24 forecast" in result["outputs"]["7"]["text"][0]
        alone = server.result(server.queue(prompt(**{**job, "speedup": 2.51})))  # another patched model
        assert torch.equal(server.latent(result), server.latent(alone))


def test_a_profile_is_tuned_saved_and_loaded(server: Server) -> None:
    tuning = prompt("SD3", enabled=False)
    del tuning["2"], tuning["6"], tuning["7"], tuning["8"]
    sampling = {"steps": 8, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["1", 0], "positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0]}
    tuning["3"] = node("FourConditionings", seed=1, width=real.SERVED["SD3"][1], pooled=True)
    tuning["10"] = node("ForeseerTune", seed=0, iterations=1, **sampling, **links)
    tuning["11"] = node("ForeseerSaveProfile", profile=["10", 0], name="tiny")
    tuning["13"] = node("PreviewAny", source=["10", 1])
    result = server.result(server.queue(tuning))
    assert result["status"]["status_str"] == "success", result["status"]
    assert "4 runs of 8 steps, with the sampler's matrix" in result["outputs"]["13"]["text"][0]
    profile = fs.Profile.load(server.folder / "models" / "foreseer" / "tiny.profile.safetensors")
    assert profile.kernel.prompts == 4
    assert all(plan.provenance["refined"].startswith("1 iterations") for plan in profile.plans)
    served = prompt("SD3", enabled=True, seed=7, profile=["12", 0])
    served["12"] = node("ForeseerLoadProfile", file="tiny.profile.safetensors")
    result = server.result(server.queue(served))
    assert result["status"]["status_str"] == "success", result["status"]
    assert "expected error" in result["outputs"]["7"]["text"][0]


def test_an_interrupted_prompt_leaves_nothing_behind(server: Server) -> None:
    long = server.queue(prompt("SD3", enabled=True, steps=4000, seed=11))
    time.sleep(3)
    with contextlib.suppress(json.JSONDecodeError):
        server.call("/interrupt", {})
    assert server.result(long)["status"]["status_str"] == "error"
    again = server.result(server.queue(prompt("SD3", enabled=True, seed=12)))
    fresh = server.result(server.queue(prompt("SD3", enabled=True, seed=12, speedup=2.01)))  # another patched model
    assert torch.equal(server.latent(again), server.latent(fresh))
