"""Failures of a bench: killed, raising, not finite, disk full, folder in use. No finished run is lost."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import foreseer as fs
import foreseer.evaluate.bench.result_store as store_module
from foreseer.evaluate.bench.bench import run_bench
from foreseer.evaluate.bench.result_store import BenchError, ResultStore, run_path
from foreseer.evaluate.entries.base import LazyEntry, PlainEntry, PolicyEntry
from tests.unit.evaluate.bench_common import PROMPTS, STEPS, Trouble, entries, figures, run, small_bench


class Killed(BaseException):
    """Stand-in for a signal, which nothing in the bench may catch."""


@pytest.fixture(scope="module")
def undisturbed(whole_bench):
    """The figures of the entries that every bench here has."""
    names = {"reference", *(one.name for one in entries())}
    return {key: value for key, value in figures(whole_bench[0]).items() if key[0] in names}


def cell_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("cells/*/*.json")}


def test_an_interrupted_bench_resumes_with_the_same_figures(emoji, tmp_path, undisturbed, monkeypatch):
    real, seen = store_module.write_atomically, []

    def write(path, content):
        seen.append(path)
        if len(seen) == 17:  # in the middle of the first prompt's cells
            raise Killed
        real(path, content)

    monkeypatch.setattr(store_module, "write_atomically", write)
    with pytest.raises(Killed):
        run(emoji, tmp_path)
    monkeypatch.undo()
    before = {path: json.loads(path.read_text())["seconds"] for path in cell_times(tmp_path)}
    assert 0 < len(before) < 8
    assert figures(run(emoji, tmp_path)) == undisturbed
    assert all(json.loads(path.read_text())["seconds"] == seconds for path, seconds in before.items())


def test_finished_runs_are_not_repeated(emoji, done_folder, undisturbed):
    before = cell_times(done_folder)

    def never(pipe):
        raise AssertionError("drawn again")

    again = run_bench(small_bench(), [*entries(), Trouble("new", "New", STEPS, 2, before=never)], emoji, done_folder)
    assert cell_times(done_folder) == before
    assert {key: value for key, value in figures(again).items() if key[0] != "new"} == undisturbed
    assert again.rows[-1].error == "AssertionError: drawn again"


def test_the_folder_of_a_killed_bench_is_unlocked(tmp_path, emoji, undisturbed):
    program = (
        "from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from foreseer import zoo; from tests.unit.evaluate.bench_common import run\n"
        "pipe = zoo.load(); pipe.set_progress_bar_config(disable=True)\n"
        f"run(pipe, Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3])
    limit = time.monotonic() + 120
    while not list(tmp_path.rglob("cells/*/*.json")) and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.rglob("cells/*/*.json"))
    assert figures(run(emoji, tmp_path)) == undisturbed


def test_an_entry_that_raises_is_reported_and_the_bench_continues(emoji, tmp_path, undisturbed):
    calls = []

    def sometimes(pipe):
        calls.append(pipe)
        if len(calls) > 3:  # two runs to measure its cost, the first prompt; then no more
            raise RuntimeError("no such kernel\nmore words")

    late = Trouble("late", "Late", STEPS, 5, before=sometimes)
    early = LazyEntry("early", "Early", STEPS, 5, make=lambda pipe: 1 / 0)
    results = run(emoji, tmp_path, late, early)
    rows = {row.method: row for row in results.rows}
    assert rows["late"].error == "RuntimeError: no such kernel"
    assert rows["late"].latency is not None
    assert rows["late"].per_prompt["psnr"][1] is None
    assert rows["late"].measures["psnr"] is None
    assert rows["early"].error == "ZeroDivisionError: division by zero"
    assert (rows["early"].latency, rows["early"].nfe, rows["early"].speedup) == (None, None, None)
    assert {key: value for key, value in figures(results).items() if key[0] in ("reuse", "steps", "taylorseer")} == {
        key: value for key, value in undisturbed.items() if key[0] != "reference"
    }


def test_a_reference_that_cannot_be_drawn_ends_the_bench_with_a_reason(emoji, tmp_path):
    with pytest.raises(BenchError, match="reference cannot be drawn: FluxPipeline takes no colour"):
        run(emoji, tmp_path, options={"colour": "red"})


@dataclass(frozen=True)
class NotFinite(PlainEntry):
    """Spoils the decoder while attached."""

    @contextmanager
    def attached(self, pipe):
        bias = pipe.vae.decoder.conv_out.bias
        kept = bias.data.clone()
        bias.data.fill_(float("nan"))
        try:
            yield None
        finally:
            bias.data.copy_(kept)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_pictures_that_are_not_finite_are_reported_and_never_measured(emoji, done_folder):
    results = run(emoji, done_folder, NotFinite("nan", "NaN", STEPS, STEPS))
    row = results.rows[-1]
    assert row.error == "2 of 2 samples are not finite (prompts 1, 2)"
    assert row.per_prompt == {"psnr": [None, None], "ssim": [None, None]}
    assert row.measures == {"psnr": None, "ssim": None}
    assert all((done_folder / name).is_file() for name in row.pictures)
    assert [one.error for one in results.rows[:-1]] == [None] * 4


def test_a_reference_that_is_not_finite_ends_the_bench(emoji, tmp_path):
    with NotFinite("nan", "NaN", STEPS, STEPS).attached(emoji), pytest.raises(BenchError, match="not finite"):
        run_bench(small_bench(), [], emoji, tmp_path)


def test_on_a_full_disk_the_message_is_clear_and_what_was_measured_stays(emoji, tmp_path, undisturbed, monkeypatch):
    real, left = store_module.write_atomically, [20]

    def full(path, content):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, content)

    monkeypatch.setattr(store_module, "write_atomically", full)
    with pytest.raises(BenchError, match=r"No space left on device\. Earlier results are kept"):
        run(emoji, tmp_path)
    before = cell_times(tmp_path)
    assert before
    assert not [file for file in tmp_path.rglob(".*") if file.is_file()]
    monkeypatch.undo()
    assert figures(run(emoji, tmp_path)) == undisturbed
    assert set(before) <= set(cell_times(tmp_path))


def test_two_benches_cannot_write_to_one_folder(emoji, tmp_path):
    words = rf"Another bench writes to .*process {os.getpid()} on "
    with ResultStore(tmp_path).locked(), pytest.raises(BenchError, match=words):
        run(emoji, tmp_path)
    with ResultStore(tmp_path).locked():  # free again, though the file is still there
        pass


def test_a_folder_of_another_bench_is_refused_with_what_differs(emoji, tmp_path):
    cells = ResultStore(tmp_path)
    cells.check_identity(small_bench().identity(emoji))
    with pytest.raises(BenchError, match="steps 6 there, 8 here"):
        run(emoji, tmp_path, steps=8)
    with pytest.raises(BenchError, match="prompts"):
        run(emoji, tmp_path, prompts=["another"])
    with pytest.raises(BenchError, match="seed 0 there, 7 here"):
        run(emoji, tmp_path, seed=7)


def test_damaged_runs_count_as_missing(tmp_path):
    cells = ResultStore(tmp_path)
    (tmp_path / "cells/00000").mkdir(parents=True)
    (tmp_path / f"{run_path(0, 'a')}.json").write_text("{")
    (tmp_path / f"{run_path(0, 'a')}.safetensors").write_bytes(b"no")
    assert cells.read(f"{run_path(0, 'a')}.json") is None
    assert cells.read_arrays(f"{run_path(0, 'a')}.safetensors") is None


def test_a_folder_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="Cannot write"), ResultStore(tmp_path / "file" / "report").locked():
        pass


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BenchError, match=r"file is a file: give a folder \(-o\)"),
        ResultStore(tmp_path / "file").locked(),
    ):
        pass


def test_deleted_samples_of_the_reference_are_drawn_again_for_new_entries(emoji, done_folder, undisturbed):
    for file in done_folder.rglob("reference-*.safetensors"):
        file.unlink()
    before = cell_times(done_folder)
    assert figures(run(emoji, done_folder)) == undisturbed
    assert cell_times(done_folder) == before  # nothing is to come
    again = run(emoji, done_folder, Trouble("new", "New", STEPS, 6, before=lambda pipe: None))
    assert again.rows[-1].measures["psnr"] == math.inf
    assert {key: value for key, value in figures(again).items() if key[0] != "new"} == undisturbed


def test_another_policy_of_the_same_name_is_another_run(emoji, tmp_path):
    def with_interval(interval):
        policy = fs.Policy(fs.schedule.Uniform(interval=interval), fs.forecast.Reuse())
        one = PolicyEntry("mine", "Mine", STEPS, policy=policy)
        return run_bench(small_bench(prompts=PROMPTS[:1]), [one], emoji, tmp_path).rows[1].nfe

    assert (with_interval(2), with_interval(3)) == (3, 2)
