"""Chebyshev's row is Spectrum's two stages folded into one, and behaves as published."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreseer.forecast import Chebyshev
from foreseer.grid import Grid
from foreseer.schedule import Growing
from tests.math.independent import forward_difference_forecast, runs, spectrum_forecast

MAPPINGS = ("steps", "published", "noise")


@pytest.mark.parametrize("mapping", MAPPINGS)
@given(
    run=runs(most_steps=60),
    degree=st.integers(0, 6),
    ridge=st.floats(1e-2, 10.0),
    window=st.none() | st.integers(1, 9),
    blend=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    newton_order=st.integers(1, 3),
    seed=st.integers(0),
)
def test_the_row_is_the_two_stage_solve_on_features(mapping, run, degree, ridge, window, blend, newton_order, seed):
    grid, computed, step = run
    features = np.random.default_rng(seed).normal(size=(len(computed), 6))
    row = Chebyshev(degree, ridge, window, blend, newton_order, mapping).row(computed, step, grid)
    fitted = spectrum_forecast(features, computed, step, grid, degree, ridge, window, mapping)
    differences = forward_difference_forecast(features, computed, step, newton_order)
    expected = (1 - blend) * differences + blend * fitted
    assert np.allclose(row @ features, expected, rtol=0, atol=1e-10 * max(1.0, np.abs(row).sum()))


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_every_row_of_the_published_run_is_the_two_stage_solve(mapping):
    grid = Grid(np.linspace(1.0, 0.02, 50) ** 1.5)
    computed = Growing(2.0, 5, 0.75).computed_steps(50)
    features = np.random.default_rng(1).normal(size=(50, 4))
    for step, window in product(sorted(set(range(50)) - set(computed)), (None, 4)):
        before = tuple(j for j in computed if j < step)
        row = Chebyshev(4, 0.1, window, mapping=mapping).row(before, step, grid)
        expected = spectrum_forecast(features[list(before)], before, step, grid, 4, 0.1, window, mapping)
        assert np.allclose(row @ features[list(before)], expected, rtol=0, atol=1e-10)


def test_rows_of_the_published_schedule_shrink_features_and_end_with_a_large_gain():
    grid, computed = Grid.uniform(50), Growing(2.0, 5, 3.0).computed_steps(50)
    rows = {}
    for step in sorted(set(range(50)) - set(computed)):
        rows[step] = Chebyshev(4, 0.1).row([j for j in computed if j < step], step, grid)
    sums = [float(row.sum()) for row in rows.values()]
    assert 0.65 <= min(sums) < 0.66
    assert 0.94 < max(sums) < 0.96
    assert np.abs(rows[49]).sum() == pytest.approx(7.0, abs=0.1)


@given(run=runs(least_computed=4), degree=st.integers(0, 3), mapping=st.sampled_from(MAPPINGS), seed=st.integers(0))
def test_without_ridge_it_is_exact_on_polynomials_of_its_degree(run, degree, mapping, seed):
    grid, computed, step = run
    times = grid.levels if mapping == "noise" else np.arange(len(grid)) / len(grid)
    polynomial = np.polynomial.Polynomial(np.random.default_rng(seed).normal(size=degree + 1))
    row = Chebyshev(degree, 0.0, mapping=mapping).row(computed, step, grid)
    assert row @ polynomial(times[list(computed)]) == pytest.approx(
        polynomial(times[step]), abs=1e-9 * np.abs(row).sum()
    )


@given(run=runs(least_computed=2))
def test_without_ridge_and_with_too_few_steps_the_fit_still_passes_through_them(run):
    grid, computed, step = run
    features = np.eye(len(computed))
    full = Chebyshev(degree=len(computed) + 2, ridge=0.0)
    small = Chebyshev(degree=len(computed) + 2, ridge=1e-9)
    gain = np.abs(full.row(computed, step, grid)).sum()
    difference = (full.row(computed, step, grid) - small.row(computed, step, grid)) @ features
    assert np.max(np.abs(difference)) < 1e-3 * max(1.0, gain)
