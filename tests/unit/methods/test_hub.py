"""Profiles on a stand-in of the Hub: uploaded with a card, downloaded at a revision, checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

import foreseer as fs
from foreseer import zoo
from foreseer.methods.profile import FILE_NAME, Profile
from tests.support.hub import served_hub
from tests.support.toy_gates import KERNEL
from tests.unit.methods.test_thumbnail import png

MODEL = ("model_index.json", "vae/config.json", "transformer/config.json")
# Another process, because huggingface_hub reads its endpoint when it is imported.
CLIENT = """
import json, sys
from foreseer.methods import policy_for
from foreseer.errors import ForeseerError
from foreseer.methods.profile import Profile
from foreseer.pipelines import check_call, locate_model

def attempt(call):
    try:
        return call()
    except ForeseerError as error:
        return str(error)

push, answers = Profile.load(sys.argv[1]), {}
answers["pushed"] = push.push_to_hub("me/new", token="a token")
answers["branch"] = push.push_to_hub("me/new", branch="wide", token="a token")
for name, repository, revision in json.loads(sys.argv[2]):
    answers[name] = attempt(lambda: Profile.from_pretrained(repository, revision=revision).budgets)
answers["by name"] = list(policy_for("me/flux-foreseer").plan.computed_steps)
answers["malformed"] = attempt(lambda: Profile.from_pretrained("a/b/c"))
for name in ("me/none", "me/empty"):
    answers[f"model {name}"] = attempt(lambda: locate_model(name))
answers["size"] = attempt(lambda: check_call(locate_model("me/model"), {"height": 20}))
answers["cached"] = [path.name for path in locate_model("me/model").iterdir()]
answers["modular"] = [path.name for path in locate_model("me/modular").iterdir()]
answers["torch"] = "torch" in sys.modules
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """The stand-in after the client's calls, and what the client saw."""
    folder = tmp_path_factory.mktemp("hub")
    plans = [fs.learned(KERNEL, nfe=nfe).compile(KERNEL.grid) for nfe in (8, 5)]
    Profile(KERNEL, tuple(plans), {"model": "FluxPipeline someone/model"}, png()).save(folder / "two.safetensors")
    Profile(KERNEL, tuple(plans[:1])).save(folder / "one.safetensors")
    two, one = ((folder / name).read_bytes() for name in ("two.safetensors", "one.safetensors"))
    damaged = bytearray(two)
    damaged[-9] ^= 1
    asked = [
        *[("main", "me/flux-foreseer", None), ("tag", "me/flux-foreseer", "v1"), ("again", "me/new", "wide")],
        *[("damaged", "me/damaged", None), ("kernel", "me/kernel", None)],
        *[("no revision", "me/flux-foreseer", "v9"), ("no repository", "me/none", None), ("no file", "me/empty", None)],
    ]
    model = {name: (zoo.path() / name).read_bytes() for name in MODEL}
    KERNEL.save(folder / "kernel.safetensors")
    with served_hub() as hub:
        hub.files |= {
            ("me/flux-foreseer", "main", FILE_NAME): two,
            ("me/flux-foreseer", "v1", FILE_NAME): one,
            ("me/damaged", "main", FILE_NAME): bytes(damaged),
            ("me/kernel", "main", FILE_NAME): (folder / "kernel.safetensors").read_bytes(),
            **{("me/model", "main", name): content for name, content in model.items()},
            ("me/empty", "main", "README.md"): b"nothing else",
            ("me/modular", "main", "modular_model_index.json"): b"{}",
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-c", CLIENT, str(folder / "two.safetensors"), json.dumps(asked)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return hub, json.loads(result.stdout)


def test_a_profile_is_downloaded_by_repository_and_revision(exchange: tuple[Any, dict[str, Any]]) -> None:
    _, answers = exchange
    assert answers["main"] == [8, 5]
    assert answers["tag"] == [8]
    assert len(answers["by name"]) == 8
    assert not answers["torch"]


def test_a_model_that_cannot_be_drawn_with_is_refused_before_torch_is_imported(
    exchange: tuple[Any, dict[str, Any]],
) -> None:
    _, answers = exchange
    assert "There is no model 'me/none' on the Hub" in answers["model me/none"]
    assert "'me/empty' on the Hub holds no model_index.json" in answers["model me/empty"]
    assert answers["size"].startswith("height is 20; this model draws multiples of")
    assert sorted(answers["cached"]) == ["model_index.json", "transformer", "vae"]
    assert answers["modular"] == ["modular_model_index.json"]
    assert not answers["torch"]


def test_an_upload_holds_the_file_and_its_card(exchange: tuple[Any, dict[str, Any]]) -> None:
    hub, answers = exchange
    assert set(hub.created) == {"me/new"}
    assert answers["pushed"].startswith(f"{hub.address}/me/new/commit/")
    uploaded = sorted((revision, name) for path, revision, name in hub.files if path == "me/new")
    assert uploaded == [(at, name) for at in ("main", "wide") for name in ("README.md", FILE_NAME, "thumbnail.png")]
    assert hub.files["me/new", "main", "thumbnail.png"] == png()
    assert hub.files["me/new", "main", FILE_NAME] == hub.files["me/flux-foreseer", "main", FILE_NAME]
    card = hub.files["me/new", "main", "README.md"].decode()
    assert card.startswith(
        "---\nlibrary_name: foreseer\ntags:\n- foreseer\n- diffusion\nbase_model: someone/model\n---"
    )
    assert "| 8 of 16 |" in card
    assert "then with 8 steps, then with 5 steps](thumbnail.png)" in card
    assert 'fs.accelerate(pipe, "me/new", quality="high")' in card
    assert answers["again"] == [8, 5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("damaged", "checksum does not match"),
        ("kernel", "is a kernel; expected a profile"),
        ("no revision", "Cannot download profile.safetensors of 'me/flux-foreseer' at 'v9': "),
        ("no repository", "Cannot download profile.safetensors of 'me/none': "),
        ("no file", "Cannot download profile.safetensors of 'me/empty': "),
        ("malformed", "'a/b/c' is not the name of a repository"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(exchange: tuple[Any, dict[str, Any]], name: str, message: str) -> None:
    answer = exchange[1][name]
    assert message in answer
    assert "HFValidationError" not in answer
