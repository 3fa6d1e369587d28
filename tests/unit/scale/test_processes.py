"""Processes on this machine: the same bits whatever worker is killed at whatever unit."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foreseer.errors import PlanError
from foreseer.scale import Here, ScaleError, Unit, model_of, run_units
from foreseer.scale.unit import Failure
from tests.unit.scale.tasks import Held, Numbers, Raises, total, units

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def run_on(place, task, jobs, **more):
    with place.pool() as pool:
        return run_units(pool, task, jobs, **more)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_every_worker_killed_at_every_unit_changes_no_bit(two, attempts):
    expected = total(run_on(Here(), Numbers(attempts), units(6)))
    for path in attempts.iterdir():
        path.unlink()
    deadly = tuple(unit.name for unit in units(6))
    states = []
    task = Numbers(attempts, deadly)
    results = run_on(two, task, units(6), progress=lambda done, whole, state: states.append(state))
    assert total(results) == expected
    assert states[-1] == "6 workers lost"
    assert len(list(attempts.iterdir())) == 12


def test_a_unit_that_always_kills_its_worker_is_given_up_with_the_cause(two, attempts):
    task = Numbers(attempts, ("unit-001",), deaths=9)
    with pytest.raises(ScaleError, match="lost 3 times, the last time: killed by SIGKILL"):
        run_on(two, task, units(2))
    results = run_on(two, task, units(3), on_failure="keep")
    assert [isinstance(result, Failure) for result in results] == [False, True, False]


def test_errors_keep_their_class_and_a_process_out_of_memory_is_replaced(two):
    with pytest.raises(PlanError, match="the steps do not fit; expected 2 or more"):
        run_on(two, Raises({"unit-000": "plan"}), units(1))
    task = Raises({"unit-001": "memory", "unit-002": "memory, wrapped"})
    before, results = {*run_on(two, Raises(), units(8))}, run_on(two, task, units(4), on_failure="keep")
    assert ["out of memory" in result.reason and "\n" not in result.reason for result in results[1:3]] == [True, True]
    assert {*run_on(two, Raises(), units(8))}.isdisjoint(before)


def test_units_find_what_their_home_kept(two):
    jobs = [Unit(f"{round}-{home}", home=str(home)) for round in range(3) for home in range(4)]
    results = [run_on(two, Held(), jobs[4 * round : 4 * round + 4]) for round in range(3)]
    workers = [[result.split()[0] for result in one] for one in results]
    assert workers[0] == workers[1] == workers[2]
    assert [int(result.split()[1]) for result in results[2]] == [3, 3, 3, 3]


class Pipeline:
    """Stands for a pipeline that was loaded in this process."""


def test_a_pipeline_object_is_refused_with_the_remedy():
    with pytest.raises(
        ScaleError, match="a Pipeline object was given: give its name, its folder, or 'module:function'"
    ):
        pickle.dumps(model_of(Pipeline()))


DRIVER = """
import signal
import sys
from pathlib import Path
from foreseer.scale import FolderStore, Processes, run_units
from tests.unit.scale.tasks import Numbers, total, units

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
folder = Path(sys.argv[1])
with Processes(2).pool() as pool:
    results = run_units(pool, Numbers(folder / "attempts", seconds=0.3), units(8), store=FolderStore(folder / "kept"))
(folder / "total").write_bytes(total(results))
"""


def start_driver(folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("end", ["SIGKILL", "SIGINT"])
def test_a_driver_that_was_ended_goes_on_where_it_was_and_leaves_no_process(tmp_path, attempts, end):
    expected = total(run_on(Here(), Numbers(attempts), units(8)))
    for path in attempts.iterdir():
        path.unlink()
    driver = start_driver(tmp_path)
    wait_until(lambda: len(list((tmp_path / "kept").glob("*.unit"))) >= 3)
    if end == "SIGKILL":
        driver.kill()
    else:
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
    errors = driver.communicate(timeout=300)[1].decode()
    assert ("KeyboardInterrupt" in errors) == (end == "SIGINT")
    assert "worker_process" not in errors  # workers say nothing
    workers = {int(path.suffix[1:]) for path in attempts.iterdir()}
    wait_until(lambda: not any(map(alive, workers)))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.unit")}
    assert 3 <= len(kept) < 8
    assert start_driver(tmp_path).wait(300) == 0
    assert (tmp_path / "total").read_bytes() == expected
    assert all(path.stat().st_mtime_ns == time_written for path, time_written in kept.items())
    assert sorted(path.suffix for path in (tmp_path / "kept").iterdir()) == [".unit"] * 8
