"""A small part of the fuzzing, for each change; all of it: ``python -m tests.fuzz.files``."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.bytewise import BYTEWISE
from tests.fuzz.container import STRUCTURAL, Parts
from tests.fuzz.places import PLACES
from tests.fuzz.subjects import kernel_fault, make_kernel, make_plan, make_subjects, plan_fault


def test_fuzzed_files_give_their_kinds_error_or_what_is_valid():
    """In a separate process: under pytest, annotations are checked by code that is compiled meanwhile."""
    options = ["--cases", "1500", "--seed", "2", "--kills", "4", "--positions", "60"]
    command = [sys.executable, "-m", "tests.fuzz.files", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=600, check=False
    )
    found = json.loads(done.stdout)
    assert found["faults"] == []
    assert done.returncode == 0
    assert set(found["by_kind"]) >= {*STRUCTURAL, *BYTEWISE, "header_text"}
    assert set(PLACES) & set(found["by_kind"])
    refused = {name: count for name, count in found["outcomes"].items() if name.endswith("Error")}
    assert set(refused) == {
        *("DamagedError", "ForecastError", "KernelFileError", "PipelineError", "PlanFileError"),
        *("ProfileError", "ZooError"),
    }
    assert min(refused.values()) > 20
    assert found["outcomes"]["read, as the good file"] > 0
    assert max(found["peak_memory_over_file_size"].values()) < 2


def test_the_parts_of_a_file_make_it_again(tmp_path):
    (tmp_path / "made").mkdir()
    for subject in make_subjects(tmp_path / "made"):
        if subject.structured:
            parts = Parts.of(subject.content)
            known = parts.metadata["checksum"]
            parts.mend_checksum()
            assert parts.metadata["checksum"] == known
            (tmp_path / "again").write_bytes(parts.file())
            assert not subject.check(subject.read(tmp_path / "again"))


@pytest.mark.parametrize("kind", STRUCTURAL)
def test_every_damage_damages(kind, tmp_path):
    (tmp_path / "made").mkdir()
    subject, rng = make_subjects(tmp_path / "made")[1], random.Random(4)
    made = set()
    for _ in range(20):
        parts = Parts.of(subject.content)
        STRUCTURAL[kind](parts, rng)
        made.add(parts.file())
    assert len(made - {subject.content}) > 3


def test_the_independent_checks_see_what_is_wrong():
    plan, kernel = make_plan(10, 1), make_kernel(6, 3)
    assert plan_fault(plan) == kernel_fault(kernel) == ""
    rows = plan.rows.copy()
    rows[0, 5] = 1.0
    rows.setflags(write=False)
    object.__setattr__(plan, "rows", rows)
    assert plan_fault(plan) == "weight 0, 5"
    object.__setattr__(kernel, "grams", -kernel.grams)
    assert kernel_fault(kernel) == "moments"
