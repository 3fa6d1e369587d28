"""What is read: regular files only, once, within limits; and what plans, kernels and texts must be."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import foreseer as fs
from foreseer import zoo
from foreseer.errors import ForecastError, GridError, PlanFileError
from foreseer.evaluate.bench.result_store import BenchError, ResultStore
from foreseer.files import Artifact, read_json, read_whole
from foreseer.kernel import Kernel
from foreseer.kernel.branches import BranchesError
from foreseer.kernel.kernel import KernelError
from foreseer.pipelines import PipelineError, read_prompts
from foreseer.plan import Plan
from tests.fuzz.subjects import make_kernel, make_plan


def test_no_pipe_is_waited_for_and_no_device_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("pipe", "link"):
        with pytest.raises(PlanFileError, match="not a regular file"):
            Plan.load(tmp_path / name)
        with pytest.raises(ForecastError, match="not a regular file"):
            fs.forecast.L2P.from_text(tmp_path / name)
        with pytest.raises(PipelineError, match="not a regular file"):
            read_prompts(tmp_path / name)
        assert ResultStore(tmp_path).read(name) is None


def test_a_link_to_a_plan_is_read(tmp_path):
    plan = make_plan(8, 1)
    plan.save(tmp_path / "file")
    (tmp_path / "link").symlink_to("file")
    assert Plan.load(tmp_path / "link") == plan


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_whole(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, expected at most 4"):
        read_whole(tmp_path / "file", 4)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system does not tell its processes' memory")
def test_a_plan_takes_no_more_memory_than_twice_its_file(tmp_path):
    steps = 1500
    rows = np.zeros((steps, steps))
    rows[:, 0] = 1.0
    path = tmp_path / "large.plan"
    Plan(fs.Grid.uniform(steps), (0,), rows).save(path)
    program = (
        "import foreseer.plan.file; from foreseer.plan import Plan\n"
        "def most(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        f"before = most(); plan = Plan.load({str(path)!r}); print(most() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert path.stat().st_size / 1024 * 0.9 < int(done.stdout) < 2 * path.stat().st_size / 1024


def test_what_is_read_cannot_be_written_to(tmp_path):
    make_plan(8, 1).save(tmp_path / "plan")
    rows = Plan.load(tmp_path / "plan").rows
    with pytest.raises(ValueError):
        rows.setflags(write=True)
    mine = np.zeros((2, 2))
    mine[0, 0] = mine[1, 0] = 1
    view = mine[:]
    view.setflags(write=False)
    plan = Plan(fs.Grid.uniform(2), (0,), view)
    mine[1, 0] = 7
    assert plan.rows[1, 0] == 1


def test_an_artifact_that_could_not_be_read_again_is_not_written(tmp_path):
    plan = make_plan(8, 1)
    wordy = Plan(plan.grid, plan.computed_steps, plan.rows, provenance={"a": "x" * 2**18})
    with pytest.raises(PlanFileError, match="expected at most 262144"):
        wordy.save(tmp_path / "plan")
    assert list(tmp_path.iterdir()) == []


def test_shapes_that_contradict_each_other_are_refused(tmp_path):
    kind = Artifact(
        "thing",
        version=1,
        arrays={"a": (np.float64, "T"), "b": (np.float64, "T+1 P*T"), "c": (np.float64, "P")},
        metadata=(),
        error=PlanFileError,
        most_bytes=10_000,
    )
    good = {"a": np.zeros(3), "c": np.zeros(2), "b": np.zeros((4, 6))}
    kind.save(tmp_path / "thing", good, {})
    with pytest.raises(PlanFileError, match="b has shape"):  # P is met in b first, not alone
        kind.load(tmp_path / "thing")
    kind.arrays = {name: kind.arrays[name] for name in ("a", "c", "b")}
    assert set(kind.load(tmp_path / "thing")[0]) == {"a", "b", "c"}
    for name, shape in (("a", (3, 1)), ("a", (2,)), ("c", (3,)), ("b", (4, 5)), ("b", (3, 6))):
        kind.save(tmp_path / "thing", {**good, name: np.zeros(shape)}, {})
        with pytest.raises(PlanFileError, match="has shape"):
            kind.load(tmp_path / "thing")
    kind.save(tmp_path / "thing", {**good, "d": np.zeros(1)}, {})
    with pytest.raises(PlanFileError, match="'d', which no thing has"):
        kind.load(tmp_path / "thing")


@pytest.mark.parametrize("level", [-np.inf, np.inf, np.nan])
def test_a_final_level_is_finite(level):
    with pytest.raises(GridError, match="final_level"):
        fs.Grid([1.0, 0.5], final_level=level)


def test_kernels_are_second_moments():
    kernel = make_kernel(5, 2)
    for row, column, value, words in (
        (1, 1, -1.0, "negative"),
        (1, 2, 1e6, "Cauchy-Schwarz"),
        (1, 1, 1e200, "at most 1e\\+100"),
        (1, 1, np.nan, "not finite"),
    ):
        grams = kernel.grams.copy()
        grams[1, row, column] = grams[1, column, row] = value
        with pytest.raises(KernelError, match=words):
            dataclasses.replace(kernel, grams=grams)
    grams = kernel.grams.copy()
    grams[1, 4, 0] += 0.1
    with pytest.raises(KernelError, match="not symmetric"):
        dataclasses.replace(kernel, grams=grams)
    for name in ("final_squares", "output_squares"):
        with pytest.raises(KernelError, match="finite"):
            dataclasses.replace(kernel, **{name: np.full_like(getattr(kernel, name), np.inf)})
    with pytest.raises(fs.ForeseerError, match="site"):
        dataclasses.replace(kernel, site="everywhere")
    branches = make_kernel(4, 2, ("a", "b")).branches
    for mixing in ([np.inf, 1.0], [1e200, 1.0], [0.0, 1.0]):
        with pytest.raises(BranchesError, match="mixing"):
            dataclasses.replace(branches, mixing=np.array(mixing))


def test_a_large_kernel_is_checked_to_its_last_row(tmp_path):
    kernel = make_kernel(130, 2)
    grams = kernel.grams.copy()
    grams[1, 129, 0] += 1.0
    with pytest.raises(KernelError, match="not symmetric"):
        dataclasses.replace(kernel, grams=grams)
    kernel.save(tmp_path / "kernel")
    assert np.array_equal(Kernel.load(tmp_path / "kernel").grams, kernel.grams)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', "{", "1" * 5000])
def test_json_that_says_two_things_or_goes_too_deep_is_refused(text):
    with pytest.raises(ValueError):
        read_json(text)


@pytest.mark.parametrize("text", ["1 " * 5000, "[1]" * 5000, "[]" * 5000, "1\n" * 5000, "1" * 200, "[[1]", "1]"])
def test_weight_texts_are_bounded(tmp_path, text):
    (tmp_path / "weights").write_text(text)
    with pytest.raises(ForecastError):
        fs.forecast.L2P.from_text(tmp_path / "weights")


def test_prompts_may_begin_with_a_byte_order_mark_and_are_bounded(tmp_path):
    (tmp_path / "prompts").write_bytes(b"\xef\xbb\xbfa red apple\r\n\n  a panda \xe2\x80\xa8a rocket")
    assert read_prompts(tmp_path / "prompts") == ["a red apple", "a panda", "a rocket"]
    (tmp_path / "prompts").write_text("a\n" * 100_001)
    with pytest.raises(PipelineError, match="more than 100000"):
        read_prompts(tmp_path / "prompts")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"prompts": "a"}',
        '{"prompts": [1]}',
        '{"num_inference_steps": "50"}',
        '{"num_inference_steps": 0}',
    ],
)
def test_a_sampling_file_that_is_none_is_refused(tmp_path, text):
    assert zoo.sampling(tmp_path) == {}
    (tmp_path / "sampling.json").write_text(text)
    with pytest.raises(zoo.ZooError, match=r"sampling\.json"):
        zoo.sampling(tmp_path)


def test_a_cell_with_a_changed_figure_is_no_cell(tmp_path):
    cells = ResultStore(tmp_path)
    cells.write("a.json", {"seconds": 1.5, "nfe": 10})
    cells.write_arrays("a.safetensors", {"sample": np.ones(4, np.float32)})
    assert cells.read("a.json") == {"seconds": 1.5, "nfe": 10}
    assert cells.read_arrays("a.safetensors")["sample"].tolist() == [1.0] * 4
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace("1.5", "1.4"))
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a.safetensors").write_bytes(content)
    assert cells.read("a.json") is None
    assert cells.read_arrays("a.safetensors") is None
    (tmp_path / "a.json").write_text("[" * 100_000)
    assert cells.read("a.json") is None


def test_a_folder_whose_identity_is_damaged_is_not_taken_over(tmp_path):
    cells = ResultStore(tmp_path)
    cells.check_identity({"model": "m"})
    cells.check_identity({"model": "m"})
    (tmp_path / "bench.json").write_text(json.dumps({"model": "m"}))
    with pytest.raises(BenchError, match="damaged"):
        cells.check_identity({"model": "m"})
