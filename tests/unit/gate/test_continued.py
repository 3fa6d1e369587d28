"""The search that goes on from computed steps."""

import itertools

import pytest

import foreseer as fs
from foreseer.forecast import KernelRows, Newton
from foreseer.schedule.continued import Continued
from tests.support.toy_gates import KERNEL, STEPS


@pytest.fixture(params=[KernelRows(KERNEL), Newton(order=1)], ids=["kernel", "newton"])
def search(request):
    return Continued(KERNEL, request.param)


@pytest.mark.parametrize("begun", [(0,), (0, 2), (0, 1, 5)])
def test_what_it_finds_is_near_the_best_of_all_sets(search, begun):
    found = search.best_after(begun, 5)
    rest = range(begun[-1] + 1, STEPS)
    every = [(*begun, *more) for more in itertools.combinations(rest, 5 - len(begun))]
    assert found in every
    assert search.cost(found) <= 1.1 * min(map(search.cost, every))


def test_a_set_serves_its_own_longer_beginnings_in_its_run(search):
    kept = {}
    found = search.best_after((0,), 6, kept)
    assert all(search.best_after(found[:known], 6, kept) == found for known in range(1, 7))


def test_what_one_run_finds_does_not_depend_on_another_run():
    kernel = fs.Kernel.load(fs.zoo.kernel_path())
    shared, alone = (Continued(kernel, KernelRows(kernel)) for _ in range(2))
    kept = {}
    begun = shared.best_after((0,), 7, kept)[:3]
    other = kept[begun, 7] = (*begun, 46, 47, 48, 49)
    assert shared.best_after(begun, 7, kept) == other
    assert shared.best_after(begun, 7) == alone.best_after(begun, 7) != other


@pytest.mark.parametrize("guess", [1, 4, 12])
def test_the_fewest_steps_within_an_error(search, guess):
    allowed = 1.01 * search.cost(search.best_after((0,), 6))
    found = search.fewest_within((0,), allowed, STEPS, guess)
    assert search.cost(found) <= allowed
    assert search.cost(search.best_after((0,), len(found) - 1)) > allowed


def test_never_more_steps_than_allowed_or_left(search):
    assert search.fewest_within((0,), 0.0, 5, 3) == search.best_after((0,), 5)
    assert search.fewest_within((0, 3, 14), 0.0, 99, 9) == (0, 3, 14, 15)
    assert search.fewest_within((0, 3), 1e9, 9, 5) == (0, 3)
