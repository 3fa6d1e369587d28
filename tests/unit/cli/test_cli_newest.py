"""The commands on whole folders of the newest pipelines: pictures, videos and sounds."""

import importlib

import diffusers
import pytest

from packaging.version import Version
from tests.support.folder_commands import calibrate_draw_and_compare, call_of, draw, invoke
from tests.support.folder_table import NEWEST_FAMILIES
from tests.support.folders import kind_of
from tests.support.folders_newest import NEWEST_PARTS, SEPARATE, Unguarded
from tests.support.folders_processed import PROCESSED_NEWEST, PROCESSED_SEPARATE
from tests.support.folders_sound import SOUND_PARTS, SOUND_SEPARATE


@pytest.fixture
def family(request, monkeypatch):
    """The family of a name, if its class and the packages that it needs are there."""
    name = request.param
    if not hasattr(diffusers, kind_of(name)):
        pytest.skip(f"this diffusers has no {kind_of(name)}")
    needed, since = NEWEST_FAMILIES[name].needs, NEWEST_FAMILIES[name].since
    if since and Version(diffusers.__version__) < Version(since):
        pytest.skip(f"diffusers {diffusers.__version__} itself cannot draw this here")
    if needed == "cosmos_guardrail":  # its weights are on the Hub
        pytest.importorskip("torchvision")  # of which the pipeline's own module uses the transforms
        module = importlib.import_module(getattr(diffusers, kind_of(name)).__module__)
        monkeypatch.setattr(module, "CosmosSafetyChecker", Unguarded)
    elif needed:
        pytest.importorskip(needed)
    return NEWEST_FAMILIES[name]


def named(*, slow):
    """Parameters of a test over all families; those that are slow are run by `make test-matrix` only."""
    families = {name: each for name, each in NEWEST_FAMILIES.items() if each.compared or not slow}
    marks = {name: [pytest.mark.slow] if slow or each.slow else [] for name, each in families.items()}
    return pytest.mark.parametrize(
        ("name", "family"), [pytest.param(name, name, marks=mark) for name, mark in marks.items()], indirect=["family"]
    )


@named(slow=False)
def test_a_newest_folder_is_drawn_from(folder, tmp_path, name, family):
    record = draw(folder(name), tmp_path, family, "--method", "reuse")
    assert record["nfe"] < record["steps"]


@named(slow=True)
def test_a_newest_folder_is_calibrated_drawn_from_and_compared(folder, tmp_path, name, family):
    assert calibrate_draw_and_compare(folder(name), tmp_path, family).is_file()


def test_sounds_of_many_prompts_are_drawn_once(folder, tmp_path):
    prompts, drawn = tmp_path / "prompts.txt", tmp_path / "drawn"
    prompts.write_text("rain\nthunder\n")
    family = NEWEST_FAMILIES["stable_audio"]
    words = ("generate", folder("stable_audio"), "--prompts", prompts, "-o", drawn, "--method", "reuse", "--nfe", 2)
    times = []
    for _ in range(2):
        invoke(*words, *call_of(family, tmp_path), "--json")
        times.append({path.name: path.stat().st_mtime_ns for path in drawn.glob("*.wav")})
    assert len(times[0]) == 2
    assert times[0] == times[1]


def test_every_folder_is_tried():
    parts = (NEWEST_PARTS, SEPARATE, SOUND_PARTS, SOUND_SEPARATE, PROCESSED_NEWEST, PROCESSED_SEPARATE)
    assert set().union(*parts) == {*NEWEST_FAMILIES}
