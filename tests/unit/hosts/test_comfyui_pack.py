"""The node pack and its nodes, on a stand-in of ComfyUI's V3 node interface (0.3.64)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from foreseer.methods.learned import searches_with_feedback
from tests.unit.hosts.comfyui_standin import SAMPLERS, Guider, Network, Patcher, Sampler, noise, sigmas

PACK = Path(__file__).parents[3] / "comfyui-foreseer"
TYPES = ("Model", "Float", "Combo", "Boolean", "Int", "String", "Conditioning", "Latent")
SENT: list[tuple[str, str]] = []


def entry(kind: str) -> Any:
    """An input or output of a schema, with its options."""

    def make(name: str = "", **options: Any) -> Any:
        return SimpleNamespace(kind=kind, id=name, **options)

    return make


class NodeOutput:
    """What a node returns."""

    def __init__(self, *values: Any, ui: Any = None) -> None:
        self.values, self.ui = values, ui


def standin(tmp_path: Path) -> dict[str, ModuleType]:
    """The modules that the nodes import."""

    def make(name: str, **names: Any) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(names)
        return module

    kinds = {name: SimpleNamespace(Input=entry(name), Output=entry(name)) for name in TYPES}
    io = SimpleNamespace(
        **kinds,
        ComfyNode=type("ComfyNode", (), {"hidden": SimpleNamespace(unique_id="7")}),
        Custom=lambda name: SimpleNamespace(Input=entry(name), Output=entry(name)),
        Schema=type("Schema", (SimpleNamespace,), {}),
        Hidden=SimpleNamespace(unique_id="UNIQUE_ID"),
        NodeOutput=NodeOutput,
    )
    paths: dict[str, list[str]] = {}
    folders = make(
        "folder_paths",
        models_dir=str(tmp_path / "models"),
        add_model_folder_path=lambda name, path: paths.setdefault(name, []).append(path),
        get_folder_paths=lambda name: paths[name],
        get_filename_list=lambda name: sorted(p.name for f in paths[name] for p in Path(f).glob("*")),
        get_full_path_or_raise=lambda name, file: str(Path(paths[name][0]) / file),
    )

    def common_ksampler(model: Any, seed: int, steps: int, cfg: float, name: str, *rest: Any, denoise: float) -> Any:
        conds = {"positive": rest[1], "negative": rest[2]}
        return ({"samples": Guider(model, conds).sample(noise(seed), Sampler(SAMPLERS[name]), sigmas(steps))},)

    samplers = make("comfy.samplers", KSampler=SimpleNamespace(SAMPLERS=["euler"], SCHEDULERS=["simple"]))
    server = SimpleNamespace(send_progress_text=lambda text, node: SENT.append((node, text)))
    return {
        "comfy": make("comfy", samplers=samplers),
        "comfy.samplers": samplers,
        "comfy_api": make("comfy_api"),
        "comfy_api.latest": make(
            "comfy_api.latest",
            ComfyExtension=type("ComfyExtension", (), {}),
            io=io,
            ui=SimpleNamespace(PreviewText=lambda text: text),
        ),
        "folder_paths": folders,
        "nodes": make("nodes", common_ksampler=common_ksampler),
        "server": make("server", PromptServer=SimpleNamespace(instance=server)),
    }


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The pack's nodes by id, loaded as ComfyUI loads them."""
    for name, module in standin(tmp_path).items():
        monkeypatch.setitem(sys.modules, name, module)
    ours = ("foreseer.hosts.comfyui.nodes", "foreseer.hosts.comfyui.profile_nodes")
    for name in ours:
        monkeypatch.delitem(sys.modules, name, raising=False)
    extension = asyncio.run(load_pack().comfy_entrypoint())
    yield {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
    for name in ours:
        sys.modules.pop(name, None)


def load_pack() -> ModuleType:
    spec = importlib.util.spec_from_file_location("comfyui_foreseer", PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_texts_of_the_pack_are_those_of_the_nodes(nodes: dict[str, Any]) -> None:
    texts = json.loads((PACK / "locales" / "en" / "nodeDefs.json").read_text())
    assert set(texts) == set(nodes)
    assert {page.stem for page in (PACK / "web" / "docs").glob("*.md")} == set(nodes)
    for name, node in nodes.items():
        schema = node.define_schema()
        assert name.startswith("Foreseer")
        assert texts[name]["display_name"] == schema.display_name
        assert texts[name]["description"] == schema.description
        assert list(texts[name]["inputs"]) == [entry.id for entry in schema.inputs]
        for entry_ in schema.inputs:
            assert texts[name]["inputs"][entry_.id].get("tooltip") == getattr(entry_, "tooltip", None)
        assert len(texts[name]["outputs"]) == len(schema.outputs)


def test_widgets_stay_where_workflows_have_stored_them(nodes: dict[str, Any]) -> None:
    widgets = [entry_.id for entry_ in nodes["Foreseer"].define_schema().inputs]
    assert widgets[:8] == [
        "model", "speedup", "quality", "method", "enabled", "first_steps", "last_steps", "profile",
    ]  # fmt: skip
    stored = [
        widget
        for path in (PACK / "example_workflows").glob("*.json")
        for node in json.loads(path.read_text())["nodes"]
        if node["type"] == "Foreseer"
        for widget in [node["widgets_values"]]
    ]
    inputs = {entry_.id: entry_ for entry_ in nodes["Foreseer"].define_schema().inputs}
    assert stored == [[inputs[name].default for name in widgets[1:7]]] * 4


def test_workflows_are_whole_and_have_thumbnails() -> None:
    paths = sorted((PACK / "example_workflows").glob("*.json"))
    assert [path.stem for path in paths] == ["flux", "sd15", "sdxl", "wan"]
    for path in paths:
        workflow = json.loads(path.read_text())
        by_id = {node["id"]: node for node in workflow["nodes"]}
        for link, source, output, target, slot, kind in workflow["links"]:
            assert by_id[source]["outputs"][output]["type"] == kind
            assert link in by_id[source]["outputs"][output]["links"]
            assert by_id[target]["inputs"][slot]["link"] == link
        assert {"Foreseer", "ForeseerReport", "KSampler"} <= {node["type"] for node in workflow["nodes"]}
        with Image.open(path.with_suffix(".jpg")) as thumbnail:
            assert thumbnail.size == (512, 512)


def test_the_registrys_fields() -> None:
    project = tomllib.loads((PACK / "pyproject.toml").read_text())
    assert "comfyui" not in project["project"]["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["project"]["version"])
    assert project["project"]["dependencies"] == ["foreseer>=0.1.0"]
    assert project["tool"]["comfy"]["requires-comfyui"] == ">=0.3.51"
    assert (PACK / "LICENSE").read_text() == (PACK.parent / "LICENSE").read_text()


def test_without_the_package_the_pack_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foreseer.hosts.comfyui.profile_nodes", None)

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("foreseer"):
            raise ModuleNotFoundError("No module named 'foreseer'", name="foreseer")
        return real(name, *rest)

    real = __import__
    monkeypatch.setattr("builtins.__import__", missing)
    with pytest.raises(ModuleNotFoundError, match="-m pip install foreseer"):
        asyncio.run(load_pack().comfy_entrypoint())


def test_a_workflow_from_tuning_to_the_report(nodes: dict[str, Any], tmp_path: Path) -> None:
    model = Patcher(Network())
    options = {"seed": [3], "steps": [8], "cfg": [1.0], "sampler_name": ["euler"], "scheduler": ["simple"]}
    conditions = [[{"value": 0.1 * index}] for index in range(4)]
    tuned = nodes["ForeseerTune"].execute(
        model=[model], positive=conditions, negative=[[]], latent_image=[{}], denoise=[1.0], **options
    )
    profile, summary = tuned.values
    assert profile.kernel.prompts == 4
    rolled_out = sum(len(searches_with_feedback(profile.kernel, nfe=nfe)) * nfe for nfe in (4, 3, 2))
    assert model.model.calls == 4 * 8 + 3 * rolled_out + 2 * (4 + 3 + 2)  # one is held out, and run under both rows
    assert "speedup 2: " in summary
    assert SENT[-1] == ("7", summary)
    saved = nodes["ForeseerSaveProfile"].execute(profile=profile, name="tiny")
    assert Path(saved.values[0]) == tmp_path / "models" / "foreseer" / "tiny.profile.safetensors"
    schema = nodes["ForeseerLoadProfile"].define_schema()
    assert schema.inputs[0].options == ["tiny.profile.safetensors"]
    before = nodes["ForeseerLoadProfile"].fingerprint_inputs(file="tiny.profile.safetensors")
    (loaded,) = nodes["ForeseerLoadProfile"].execute(file="tiny.profile.safetensors").values
    assert (loaded.kernel.grams == profile.kernel.grams).all()
    nodes["ForeseerSaveProfile"].execute(profile=profile, name="tiny")
    assert nodes["ForeseerLoadProfile"].fingerprint_inputs(file="tiny.profile.safetensors") != before
    (faster,) = nodes["Foreseer"].execute(
        model=model, speedup=2.0, quality="by speedup", method="auto", enabled=True, first_steps=1, last_steps=1,
        profile=loaded,
    ).values  # fmt: skip
    assert "No run has ended" in nodes["ForeseerReport"].execute(faster, {}).ui
    Guider(faster).sample(noise(9), Sampler(SAMPLERS["euler"]), sigmas(8))
    latent, text = nodes["ForeseerReport"].execute(faster, {"samples": torch.ones(1)}).values
    assert "4 calls computed, 4 forecast" in text
    assert "expected error" in text
    assert SENT[-1] == ("7", text)
    assert latent["samples"].tolist() == [1.0]
    assert "not on this model" in nodes["ForeseerReport"].execute(model, {}).ui


def test_a_disabled_node_passes_the_model_on(nodes: dict[str, Any]) -> None:
    options = {"speedup": 2.0, "quality": "by speedup", "method": "auto", "first_steps": 1, "last_steps": 1}
    (faster,) = nodes["Foreseer"].execute(model=Patcher(Network()), enabled=True, **options).values
    (plain,) = nodes["Foreseer"].execute(model=faster, enabled=False, **options).values
    Guider(plain).sample(noise(1), Sampler(SAMPLERS["euler"]), sigmas(8))
    assert plain.model.calls == 8


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_names_of_files_are_plain(nodes: dict[str, Any], name: str, as_users_call: None) -> None:
    with pytest.raises(Exception, match="plain file name"):
        nodes["ForeseerSaveProfile"].execute(profile=None, name=name)


def test_the_survey_of_samplers_adds_up_and_is_the_pages() -> None:
    from benchmarks import comfyui_survey as survey

    results = json.loads(survey.RESULTS.read_text())
    assert survey.table(results) in survey.PAGE.read_text()
    for family in survey.FAMILIES:
        for name, row in results[family].items():
            assert row["identical_if_all_computed"], name
            assert row["network_calls"] == row["computed"] <= row["calls"], name
            assert row["computed"] == row["calls"] or not name.endswith("_cfg_pp"), name
