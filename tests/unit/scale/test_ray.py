"""Ray: the same bits whatever actor, node or driver goes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foreseer.scale import FolderStore, Here, Ray, ScaleError, run_units
from foreseer.scale.cluster import connected
from tests.unit.scale.tasks import Numbers, Raises, total, units

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Workers of raylets that start here find this source; nothing is reported to anybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        yield


@pytest.fixture(scope="module")
def cluster(environment):
    """Two raylets on this machine, each with one CPU; nodes that a test removes it must put back."""
    cluster = cluster_utils.Cluster()
    for _ in range(2):
        add_node(cluster)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def add_node(cluster, attempts=3):
    """Add a node; Ray gives a node half a minute to start, which a busy machine may exceed."""
    for attempt in range(attempts):
        try:
            cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=2**27)
        except Exception as error:
            if attempt == attempts - 1 or "timed out during startup" not in str(error):
                raise
        else:
            return


@pytest.fixture
def expected(attempts):
    with Here().pool() as pool:
        results = total(run_units(pool, Numbers(attempts), units(6)))
    for path in attempts.iterdir():
        path.unlink()
    return results


def test_every_actor_killed_at_every_unit_and_a_node_removed_change_no_bit(cluster, attempts, expected, tmp_path):
    states = []

    def note(done, whole, state):
        states.append((done, state))

    with Ray(2, cluster.address, threads=1) as place:
        with place.pool() as pool:
            task = Numbers(attempts, tuple(unit.name for unit in units(6)))
            assert total(run_units(pool, task, units(6), progress=note)) == expected
            assert states[-1] == (6, "6 workers lost")
            assert len(list(attempts.iterdir())) == 12
        for path in attempts.iterdir():
            path.unlink()
        states.clear()

        def remove(done, whole, state):
            note(done, whole, state)
            if done == 2 and len(cluster.worker_nodes) == 1:
                cluster.remove_node(next(iter(cluster.worker_nodes)))

        store = FolderStore(tmp_path / "kept")
        with place.pool() as pool:
            task = Numbers(attempts, seconds=0.5)
            pool.begin(task, 2)
            while len(pool.ready) < 2:  # on a busy machine one worker may do all units before the other has started
                pool.receive(1.0)
            results = run_units(pool, task, units(6), store=store, progress=remove)
        assert total(results) == expected
        assert states[-1] == (6, "1 workers lost")
        assert len(list(store.folder.glob("*.unit"))) == 6
    add_node(cluster)


DRIVER = """
import sys
from pathlib import Path
from foreseer.scale import FolderStore, Ray, run_units
from tests.unit.scale.tasks import Numbers, total, units

folder = Path(sys.argv[1])
with Ray(2, sys.argv[2], threads=1).pool() as pool:
    results = run_units(pool, Numbers(folder / "attempts", seconds=0.5), units(6), store=FolderStore(folder / "kept"))
(folder / "total").write_bytes(total(results))
"""


def test_a_driver_that_was_killed_and_started_again_loses_no_unit(cluster, attempts, expected, tmp_path):
    def kept():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.unit")}

    def start():
        return subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), cluster.address], cwd=ROOT)

    driver = start()
    while len(kept()) < 2:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    before = kept()
    assert len(before) < 6
    assert start().wait(300) == 0
    assert (tmp_path / "total").read_bytes() == expected
    assert before.items() <= kept().items()


def test_errors_and_versions_come_through(cluster):
    from foreseer.errors import PlanError

    with Ray(1, cluster.address) as place, place.pool() as pool:
        with pytest.raises(PlanError, match="the steps do not fit"):
            run_units(pool, Raises({"unit-000": "plan"}), units(1))
        assert pool.about[0]["foreseer"]


def test_what_ray_cannot_do_is_one_readable_line(cluster, monkeypatch):
    ray.shutdown()
    monkeypatch.setattr(ray, "__version__", "1.2.3")
    with pytest.raises(ScaleError, match=r"Cannot use a Ray cluster at '[\d.:]+': Version mismatch") as error:
        connected(cluster.address)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    monkeypatch.undo()
    ray.shutdown()
    with pytest.raises(
        ScaleError, match=r"Cannot use a Ray cluster at '127.0.0.1:1': nothing answers .*ray start --head"
    ) as error:
        connected("127.0.0.1:1")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ScaleError, match=r"pip install 'foreseer\[ray\]'"):
        connected(None)
