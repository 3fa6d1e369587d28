"""Units, their results and their order; scaling by a simulated clock."""

import re
import sys

import numpy as np
import pytest

from foreseer.scale import FolderStore, Here, ScaleError, Unit, model_of, place_of, run_units
from foreseer.scale.cluster import connected
from foreseer.scale.unit import Failure, Task, sum_up
from tests.unit.scale.simulated import SimulatedPool
from tests.unit.scale.tasks import Numbers, Raises, units


def run_here(task, jobs, **more):
    with Here().pool() as pool:
        return run_units(pool, task, jobs, **more)


def test_results_come_in_the_order_of_the_units_and_what_is_done_is_not_repeated(tmp_path):
    (tmp_path / "attempts").mkdir()
    task, store = Numbers(tmp_path / "attempts"), FolderStore(tmp_path / "kept")
    first = run_here(task, units(3), store=store)
    seen = []
    again = run_here(task, units(5), store=store, progress=lambda done, total, state: seen.append((done, total)))
    assert again[:3] == first
    assert len({*again}) == 5
    assert seen == [(3, 5), (4, 5), (5, 5)]
    assert len(list((tmp_path / "attempts").iterdir())) == 5
    assert not [path for path in (tmp_path / "kept").iterdir() if path.suffix != ".unit"]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other"])
def test_a_damaged_or_foreign_result_counts_as_missing(tmp_path, damage):
    store, (unit, other) = FolderStore(tmp_path), units(2)
    store.put(unit, b"some result")
    content = store.path(unit).read_bytes()
    changed = {"cut": content[:-1], "changed": content[:-1] + b"x", "empty": b""}
    if damage == "other":
        store.path(unit).rename(store.path(other))
        assert store.get(other) is None
    else:
        store.path(unit).write_bytes(changed[damage])
        assert store.get(unit) is None
    store.put(unit, b"some result")
    assert store.get(unit) == b"some result"
    assert store.get(Unit(unit.name, fingerprint="version 2")) is None


def test_an_error_is_raised_as_it_was_or_kept_with_its_reason():
    task = Raises({"unit-001": "memory", "unit-002": "plan"})
    with pytest.raises(RuntimeError, match="out of memory"):
        run_here(task, units(3))
    results = run_here(task, units(4), on_failure="keep")
    assert [isinstance(result, Failure) for result in results] == [False, True, True, False]
    assert results[1].reason == "RuntimeError: CUDA error: out of memory"
    assert "2 of 4 units failed" in sum_up([result for result in results if isinstance(result, Failure)], 4)


def test_units_are_named_once_and_stored_under_safe_names(tmp_path):
    with pytest.raises(ScaleError, match="same name"):
        run_here(Raises(), [Unit("a"), Unit("a")])
    with pytest.raises(ScaleError, match="cannot be a file name"):
        FolderStore(tmp_path).put(Unit("../a"), b"")
    (tmp_path / "file").touch()
    with pytest.raises(ScaleError, match=r"Cannot write .*file"):
        FolderStore(tmp_path / "file").put(Unit("a"), b"")


# With known costs the longest start first; without, a long unit may come last, which more workers feel more.
@pytest.mark.parametrize(("workers", "known"), [(2, False), (4, False), (2, True), (4, True), (8, True)])
@pytest.mark.parametrize("seed", range(5))
def test_64_uneven_units_keep_the_workers_busy(workers, known, seed):
    lengths = np.random.default_rng(seed).lognormal(0.0, 0.5, 64)
    jobs = [Unit(unit.name, cost=length if known else 1.0) for unit, length in zip(units(64), lengths, strict=True)]
    pool = SimulatedPool(workers, dict(zip([unit.name for unit in jobs], lengths, strict=True)))
    results = run_units(pool, Raises(), jobs)
    assert results == [unit.name.encode() for unit in jobs]
    assert lengths.sum() / (workers * pool.now) >= 0.9
    assert sum(pool.busy.values()) == pytest.approx(lengths.sum())


def test_known_costs_start_the_longest_first():
    lengths = [1.0] * 15 + [8.0]
    jobs = [Unit(unit.name, cost=length) for unit, length in zip(units(16), lengths, strict=True)]
    pool = SimulatedPool(2, {unit.name: unit.cost for unit in jobs})
    assert run_units(pool, Raises(), jobs) == [unit.name.encode() for unit in jobs]
    assert pool.sent[0] == "unit-015"
    assert pool.now <= 12.0


def test_ten_thousand_units_are_each_done_once():
    jobs = units(10_000)
    pool = SimulatedPool(8, dict.fromkeys([unit.name for unit in jobs], 1.0))
    assert run_units(pool, Raises(), jobs) == [unit.name.encode() for unit in jobs]
    assert len({*pool.sent}) == len(pool.sent) == 10_000


def test_workers_that_die_in_a_simulation_lose_no_unit():
    jobs = units(64)
    lengths = dict.fromkeys([unit.name for unit in jobs], 1.0)
    pool = SimulatedPool(4, lengths, deaths=[(2.5, 1), (2.5, 2), (7.2, 0), (9.9, 3), (12.1, 1)])
    states = []
    results = run_units(pool, Raises(), jobs, progress=lambda done, total, state: states.append((done, state)))
    assert results == [unit.name.encode() for unit in jobs]
    assert len(pool.sent) == 64 + 5
    assert states[-1] == (64, "5 workers lost")


def test_units_of_one_home_stay_with_its_worker():
    jobs = [Unit(f"segment-{segment}-{home}", home=f"{home}") for segment in range(3) for home in range(6)]
    pool = SimulatedPool(3, {unit.name: 1.0 + 0.1 * int(unit.home) for unit in jobs})
    holders = {}
    for segment in range(3):
        run_units(pool, Raises(), jobs[6 * segment : 6 * segment + 6])
        holders[segment] = dict(pool.homes)
    assert holders[0] == holders[1] == holders[2]
    assert sorted(holders[0].values()) == [0, 0, 1, 1, 2, 2]


class NothingStarts(SimulatedPool):
    def begin(self, task, workers):
        self._later(0.0, 0, "death")

    def restart(self, worker):
        self._later(0.0, worker, "death")


def test_workers_that_do_not_start_are_one_error():
    with pytest.raises(ScaleError, match="Workers do not start: simulated"):
        run_units(NothingStarts(1, {}), Raises(), units(1))


class NobodyComes(SimulatedPool):
    def begin(self, task, workers):
        pass

    def receive(self, seconds):
        return None


def test_patience_ends():
    with pytest.raises(ScaleError, match="No worker started within 0 seconds"):
        run_units(NobodyComes(1, {}), Raises(), units(1), patience=0.0)


class NeverConnects:
    """Ray, which waits for minutes for an address at which nothing answers, and then ends the process."""

    @staticmethod
    def is_initialized():
        return False


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "[::1]:1", None])
def test_a_ray_address_at_which_nothing_answers_is_refused_before_ray_waits_for_it(address, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", NeverConnects)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(ScaleError, match=f"at '{re.escape(address or '127.0.0.1:2')}': nothing answers there") as error:
        connected(address)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True])
def test_a_number_of_workers_is_a_count(workers):
    with pytest.raises(ScaleError, match="workers is"):
        place_of(workers)


def test_workers_with_other_versions_are_refused():
    pool = SimulatedPool(2, {})
    pool.started(0, {"host": "a", "torch": "2.13.0"})
    with pytest.raises(ScaleError, match=r"workers on b and a differ \(torch 2.12.0 and 2.13.0\)"):
        pool.started(1, {"host": "b", "torch": "2.12.0"})


def test_a_task_is_abstract_and_models_are_named():
    assert model_of("emoji").name == "emoji"
    with pytest.raises(TypeError):
        Task()  # pyright: ignore
