"""Steps searched on other models' kernels, for any run."""

import numpy as np
import pytest

import foreseer as fs
from foreseer.errors import ScheduleError
from foreseer.forecast import TaylorSeer
from foreseer.methods import find
from foreseer.methods.generic import GenericSteps, bundled_levels, generic_kernel, is_flow, searched_levels
from foreseer.methods.validate import formula_error
from foreseer.schedule import Uniform

KERNEL = fs.Kernel.load(fs.zoo.kernel_path())
SHIFTED = fs.Grid(3 * (t := 1 - np.arange(30) / 30) / (1 + 2 * t))
OTHERS = (fs.Grid(np.linspace(14.6, 0.03, 20)), fs.Grid(np.arange(951, 0, -50.0), unit="timestep"))


def test_the_levels_are_those_of_one_to_many_computed_steps():
    assert [len(levels) for levels in bundled_levels()] == list(range(1, len(bundled_levels()) + 1))
    assert all(levels[0] == 1.0 and np.all(np.diff(levels) < 0) for levels in bundled_levels())


@pytest.mark.parametrize("grid", [fs.Grid.uniform(4), SHIFTED, fs.Grid.uniform(80), *OTHERS], ids=len)
def test_any_budget_is_kept_on_any_grid_and_on_its_parts(grid):
    for nfe in range(1, len(grid) + 1):
        assert len(set(GenericSteps(nfe).on(grid))) == nfe
        first = len(grid) // 2
        if nfe <= len(grid) - first:
            assert len(set(GenericSteps(nfe).on(grid, first))) == nfe
    with pytest.raises(ScheduleError, match="nfe"):
        GenericSteps(len(grid) + 1).on(grid)
    assert len(GenericSteps(len(grid)).on(grid, len(grid) - 1, spent=2)) == 1


def test_steps_are_those_of_the_nearest_levels():
    chosen = SHIFTED.levels[list(GenericSteps(7).on(SHIFTED))]
    spacing = np.abs(np.diff(SHIFTED.levels)).max()
    assert np.abs(chosen - bundled_levels()[6]).max() <= spacing
    part = SHIFTED.levels[12:][list(GenericSteps(3).on(SHIFTED, 12))]
    assert part[0] == SHIFTED.levels[12]
    assert np.all(np.diff(part) < -spacing / 4)


@pytest.mark.parametrize("grid", OTHERS, ids=["sigma", "timestep"])
def test_other_schedulers_keep_taylorseer_on_even_steps(grid):
    assert not is_flow(grid)
    plan = find("generic").policy(20, 7).compile(grid)
    steps = Uniform.for_nfe(7, 20, 3).computed_steps(20)
    assert plan.computed_steps == steps
    assert np.array_equal(plan.rows, TaylorSeer(order=2).rows(steps, grid))


def test_models_count_alike_whatever_the_size_of_their_outputs():
    larger = fs.Kernel(KERNEL.grid, 9 * KERNEL.grams, KERNEL.sampler, 9 * KERNEL.final_squares)
    kernel = generic_kernel([KERNEL, larger])
    assert kernel.grams[0] == pytest.approx(kernel.grams[1])
    levels = searched_levels(kernel, [3])[3]
    steps = [int(np.argmin(np.abs(KERNEL.grid.levels - level))) for level in levels]
    even = Uniform.for_nfe(3, len(KERNEL.grid), 3).on(KERNEL.grid)
    rows = TaylorSeer(order=1)
    assert formula_error(KERNEL, steps, rows).mean < 0.5 * formula_error(KERNEL, even, rows).mean


@pytest.mark.usefixtures("as_users_call")
def test_what_is_no_kernel_and_what_are_no_levels_is_refused():
    for kernels, words in (([], "kernels is empty"), (["a file"], "kernels is a str; expected a Kernel")):
        with pytest.raises(ScheduleError, match=words):
            generic_kernel(kernels)
    for levels in ([], [[]], [[1.0], [0.2, 1.0]]):
        with pytest.raises(ScheduleError, match="expected falling noise levels"):
            GenericSteps(1, levels)
    with pytest.raises(ScheduleError, match="kernel is a str; expected a Kernel"):
        fs.learned("a file", nfe=3)
