"""A bench on workers measures what a local one measures, and compares times on one device only."""

import json
from functools import partial

import pytest

from foreseer import zoo
from foreseer.evaluate.bench.bench import run_bench
from foreseer.evaluate.bench.bench_workers import run_bench_on
from foreseer.evaluate.bench.prepare import BenchRequest, compare_methods
from foreseer.evaluate.bench.result_store import ResultStore
from foreseer.evaluate.bench.selection import Selection
from tests.unit.evaluate.bench_common import figures
from tests.unit.scale.loopback import Loopback

SIZE = {"height": 32, "width": 32, "max_sequence_length": 16}


def budgets(steps):
    return [2]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("a red apple\na rocket\na panda")
    request = BenchRequest(prompts, steps=4, options=SIZE, measures=["psnr"], dtype="float32", device="cpu")
    return partial(compare_methods, request, str(zoo.path()), Selection(0, (), ["reuse", "newton", "steps"]), budgets)


@pytest.fixture(scope="module")
def local(make, tmp_path_factory):
    folder, ready = tmp_path_factory.mktemp("local"), make()
    return folder, run_bench(ready.bench, ready.entries, ready.pipe, folder)


def pictures(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_workers_that_die_measure_what_one_process_measures(make, local, tmp_path):
    folder, results = local
    there = run_bench_on(Loopback(2, [4, 9]), make, tmp_path)
    assert figures(there) == figures(results)
    assert all(row.speedup is not None and row.error is None for row in there.rows)
    assert pictures(tmp_path) == pictures(folder)
    cells = [json.loads(path.read_text()) for path in (tmp_path / "cells").rglob("*.json")]
    assert len(cells) == 3 * 4
    assert all(cell["host"] and cell["device"] for cell in cells)
    assert there.notes == results.notes
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").rglob("*.json")}
    assert figures(run_bench_on(Loopback(2), make, tmp_path)) == figures(results)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


def test_times_of_several_devices_are_left_out_with_the_reason(make, local, tmp_path):
    folder, results = local
    for path in folder.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    cells = ResultStore(tmp_path)
    for path in (tmp_path / "cells" / "00001").glob("*.json"):
        name = str(path.relative_to(tmp_path))
        cells.write(name, {**cells.read(name), "device": "another GPU"})
    ready = make()
    mixed = run_bench(ready.bench, ready.entries, ready.pipe, tmp_path)
    assert [row.speedup for row in mixed.rows] == [row.latency for row in mixed.rows] == [None] * 4
    assert mixed.rows[1].measures == results.rows[1].measures
    assert "another GPU: 1" in mixed.notes[-1]
    next((tmp_path / "cells" / "00001").glob("newton-*.json")).unlink()
    ready = make()
    again = run_bench(ready.bench, ready.entries, ready.pipe, tmp_path)  # the prompt is run here from its beginning
    assert again.notes == results.notes
    assert all(row.speedup is not None for row in again.rows)
