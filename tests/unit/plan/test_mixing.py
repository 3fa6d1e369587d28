"""Corrections that mix channels: what a plan refuses, what its file keeps."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from foreseer.errors import PlanError, PlanFileError
from foreseer.plan import Plan
from foreseer.plan.file import PLAN_FILE
from foreseer.plan.mixing import ChannelMixing, MixedSegment
from tests.support.plans import make_plan


def make_segment(seed=0, branch="", steps=(4, 5, 6), sources=(0, 3), channels=5):
    generator = np.random.default_rng(seed)
    matrices = generator.normal(size=(len(sources), channels, channels)).astype(np.float32)
    return MixedSegment(branch, steps, generator.normal(size=len(steps)), sources, matrices)


def plan_of(computed=(0, 3, 7), steps=10, branches=(), mixing=None):
    rows = np.eye(steps)
    for step in set(range(steps)) - set(computed):
        rows[step] = 0.0
        rows[step, max(j for j in computed if j < step)] = 1.0
    grid = make_plan(1, steps=steps).grid
    return Plan(grid, computed, rows, branch_rows=dict.fromkeys(branches, rows), mixing=mixing)


def test_a_file_keeps_corrections_to_the_last_bit(tmp_path):
    for branches in ((), ("cond", "uncond")):
        segments = [
            make_segment(3 * i + j, name, steps, sources)
            for i, name in enumerate(branches or ("",))
            for j, (steps, sources) in enumerate([((1, 2), (0,)), ((4, 6), (0, 3)), ((8, 9), (3, 7))])
        ]
        plan = plan_of(branches=branches, mixing=ChannelMixing(-1, tuple(segments)))
        plan.save(tmp_path / "plan.safetensors")
        loaded = Plan.load(tmp_path / "plan.safetensors")
        assert loaded == plan
        assert loaded.mixing == plan.mixing
        assert pickle.loads(pickle.dumps(plan)) == plan
        assert loaded != dataclasses.replace(plan, mixing=None)


def test_files_of_earlier_versions_are_read(tmp_path, monkeypatch):
    plan = plan_of(branches=("cond", "uncond"))
    for version in (1, 2):
        monkeypatch.setattr(PLAN_FILE, "version", version)
        plan.save(tmp_path / "plan.safetensors")
        monkeypatch.undo()
        assert Plan.load(tmp_path / "plan.safetensors") == plan


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, words: arrays.pop("mixing_shares"),
        lambda arrays, words: arrays.update(mixing_sources=arrays["mixing_sources"][::-1].copy()),
        lambda arrays, words: arrays.update(mixing_sources=arrays["mixing_sources"][:, :1].copy()),
        lambda arrays, words: arrays.update(mixing_sources=arrays["mixing_sources"] + np.array([[7, 0]])),
        lambda arrays, words: arrays.update(mixing_matrices=arrays["mixing_matrices"] * np.float32(np.inf)),
        lambda arrays, words: words.update(axis=3),
        lambda arrays, words: words.update(axis=True),
        lambda arrays, words: words.update(branches=[None]),
        lambda arrays, words: words.update(branches=["", ""]),
        lambda arrays, words: words.update(steps=[[4, 5, 99]]),
        lambda arrays, words: words.update(steps=[[4, -5]]),
        lambda arrays, words: words.update(steps=[4]),
        lambda arrays, words: words.update(steps=[[0]]),
        lambda arrays, words: words.update(more=1),
    ],
)
def test_what_no_plan_writes_is_refused(tmp_path, change):
    path = tmp_path / "plan.safetensors"
    plan_of(mixing=ChannelMixing(-1, (make_segment(),))).save(path)
    arrays, metadata = PLAN_FILE.load(path)
    arrays = {name: array.copy() for name, array in arrays.items()}
    words = json.loads(metadata["mixing"])
    change(arrays, words)
    keys = ("unit", "final_level", "site", "provenance")
    PLAN_FILE.save(path, arrays, {**{key: metadata[key] for key in keys}, "mixing": json.dumps(words)})
    with pytest.raises(PlanFileError):
        Plan.load(path)


def test_corrections_that_fit_no_plan_are_refused(as_users_call):
    good = make_segment()
    for options in (
        {"steps": ()},
        {"steps": (5, 4, 6)},
        {"sources": (3, 0)},
        {"sources": (0, 4)},
        {"shares": [1.0]},
        {"shares": [1.0, 2.0, np.nan]},
        {"matrices": np.zeros((2, 5, 4))},
        {"matrices": np.zeros((1, 5, 5))},
        {"matrices": "words"},
    ):
        with pytest.raises(PlanError):
            dataclasses.replace(good, **options)
    for axis, segments in (
        (0, (good,)),
        (-1, ()),
        (-1, (good, good)),
        (-1, (good, make_segment(channels=4, steps=(8,)))),
    ):
        with pytest.raises(PlanError):
            ChannelMixing(axis, segments)
    for segment in (
        make_segment(branch="cond"),
        make_segment(steps=(4, 7)),
        make_segment(steps=(9, 10)),
        make_segment(sources=(0, 2)),
    ):
        with pytest.raises(PlanError):
            plan_of(mixing=ChannelMixing(-1, (segment,)))
    with pytest.raises(PlanError, match="mixing"):
        plan_of(mixing="words")


def test_features_live_until_the_last_step_that_they_correct():
    plan = plan_of(mixing=ChannelMixing(-1, (make_segment(steps=(8, 9), sources=(0, 7)),)))
    assert plan.last_uses[0] == 9
    assert plan_of().last_uses[0] == 2
    assert set(plan.of_branch("").freed_after[9]) == {0, 7}


def test_a_branch_follows_its_own_corrections_and_others_those_without_a_name():
    segments = (make_segment(0, "cond"), make_segment(1, "uncond"), make_segment(2, ""))
    plan = plan_of(branches=("cond", "uncond"), mixing=ChannelMixing(1, segments))
    assert plan.of_branch("cond").mixing.segments == segments[:1]
    assert plan.of_branch("uncond").mixing.segments == segments[1:2]
    assert plan.of_branch("a third").mixing.segments == segments[2:]
    assert plan_of().of_branch("").mixing is None


def test_explain_announces_memory_and_cost():
    plan = plan_of(mixing=ChannelMixing(-1, (make_segment(channels=64),)))
    explained = plan.explain((1, 4096, 64), "bfloat16")
    assert explained.mixing.matrices == 2
    assert explained.mixing.bytes == 2 * 64 * 64 * 4
    assert explained.mixing.multiplications == 2 * 4096 * 64 * 64
    assert explained.live_bytes == (plan.most_live + 1) * 4096 * 64 * 2
    assert "mixes 64 channels" in str(explained)
    assert plan.explain().mixing.multiplications is None
    assert plan_of().explain().mixing is None
