"""Steps of runs of many: found on every n-th of them first, in bounded time and memory."""

from __future__ import annotations

import numpy as np
import pytest

import foreseer as fs
from foreseer.forecast import KernelRows
from foreseer.kernel import Kernel
from foreseer.schedule import Joint
from foreseer.schedule.continued import Continued
from foreseer.schedule.joint import JointSearch
from foreseer.schedule.search import Search, root_of, spread
from tests.unit.kernel.test_branches import branch_features
from tests.unit.kernel.test_branches import kernel_of as branched
from tests.unit.kernel.test_kernel import trajectories

STEPS = 16
LONG = fs.Grid.uniform(150)


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    features = trajectories(3, STEPS)
    sampler = np.tril(np.ones((STEPS + 1, STEPS + 1)), -1) / STEPS + np.eye(STEPS + 1)
    grams = features @ features.transpose(0, 2, 1) / features.shape[2]
    return Kernel(fs.Grid.uniform(STEPS), grams, sampler, np.ones(3), sensitivity=2.0)


@pytest.mark.parametrize("nfe", [9, 80])
def test_work_is_bounded_however_long_the_run_and_large_the_budget(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, nfe: int
) -> None:
    work: list[int] = []
    weights = KernelRows._weights

    def counted(self: KernelRows, computed: np.ndarray, steps: np.ndarray, grid: fs.Grid) -> np.ndarray:
        work.append(computed.size**2 * (computed.size + steps.size))
        return weights(self, computed, steps, grid)

    monkeypatch.setattr(KernelRows, "_weights", counted)
    monkeypatch.setattr("foreseer.schedule.search.FINE", 24)
    found = Search(kernel.on(fs.Grid.uniform(250)), KernelRows(kernel)).best(nfe)
    assert len(set(found)) == nfe
    assert (found[0], found[-1] < 250) == (0, True)
    assert sum(work) < 5e7
    gaps = np.diff([*found, 250])
    assert gaps.max() < 12 * max(1, gaps.min())


@pytest.mark.parametrize("max_error", [0.1, 0.005])
def test_a_gate_searches_long_runs_in_bounded_work(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, max_error: float
) -> None:
    monkeypatch.setattr("foreseer.schedule.search.FINE", 24)
    calls = 0
    rows = KernelRows(kernel)
    search = Continued(kernel.on(fs.Grid.uniform(120)), rows)
    forecast = search._forecast

    def counted(before: np.ndarray, steps: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return forecast(before, steps)

    search._forecast = counted  # pyright: ignore[reportAttributeAccessIssue]
    found = search.fewest_within((0, 3), max_error, 120, 10)
    assert found[:2] == (0, 3)
    assert search.cost(found) <= max_error
    assert calls < 16_000
    assert len(search._errors) < 5  # those of the sets found since the last search


def test_a_budget_is_spread_like_a_smaller_one() -> None:
    assert spread((0, 2, 6), 6, 12) == (0, 1, 2, 4, 6, 9)
    assert spread((0, 1, 2, 9), 8, 10) == (0, 1, 2, 3, 4, 5, 8, 9)
    assert spread((0, 1, 2), 10, 10) == tuple(range(10))


def test_it_costs_little_more_than_a_search_of_every_step(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = fs.Grid.uniform(80)
    search = Search(kernel.on(grid), KernelRows(kernel))
    quick = search.best(5)
    monkeypatch.setattr("foreseer.schedule.search.FINE", 80)
    thorough = Search(kernel.on(grid), KernelRows(kernel)).best(5)
    assert search.cost(quick) <= 1.03 * search.cost(thorough)
    worse = tuple(range(0, 80, 16))
    assert search.cost(quick) < 0.9 * search.cost(worse)


def test_what_it_keeps_is_of_the_size_of_a_few_kernels(kernel: Kernel) -> None:
    search = Search(kernel.on(LONG), KernelRows(kernel))
    assert len(search.best(6)) == 6
    assert sum(kept.nbytes for kept in search._errors.values()) < 20 * len(LONG) ** 2 * 8


def test_branches_apart_on_a_long_run() -> None:
    kernel = branched(branch_features())
    joint, search = Joint(kernel, 9), JointSearch(kernel.on(LONG))
    steps, own = joint.on(LONG), joint.branch_steps(LONG)
    assert sum(len(own.get(name, steps)) for name in ("cond", "uncond", "skip")) == 9
    even = tuple((step, 7) for step in range(0, 150, 50))
    assert search.cost(search.best(9)) < search.cost(even)


def test_vectors_span_no_more_than_they_must(kernel: Kernel) -> None:
    pooled = kernel.on(LONG).pooled
    root = root_of(pooled)
    assert root.shape[1] < 2 * STEPS  # its features, and what is open between them
    assert root @ root.T == pytest.approx(pooled, abs=1e-10 * float(pooled.max()))
