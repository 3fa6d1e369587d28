"""Newton, TaylorSeer and Adams-Bashforth against what defines them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreseer.forecast import AdamsBashforth, Newton, TaylorSeer
from foreseer.grid import Grid
from tests.math.independent import PublishedTaylorSeer, lagrange_row, moment_row, runs


@given(run=runs(), order=st.integers(0, 8), unit=st.sampled_from(["step", "noise"]))
def test_newton_is_lagrange_through_the_last_nodes(run, order, unit):
    grid, computed, step = run
    times = list(range(len(grid))) if unit == "step" else grid.levels.tolist()
    used = computed[-(order + 1) :]
    expected = [0.0] * (len(computed) - len(used))
    expected += [float(weight) for weight in lagrange_row([times[j] for j in used], times[step])]
    row = Newton(order, unit).row(computed, step, grid)
    assert np.allclose(row, expected, rtol=0, atol=1e-12 * np.abs(expected).sum())


@given(
    run=runs(least_computed=5), order=st.integers(0, 4), unit=st.sampled_from(["step", "noise"]), seed=st.integers(0)
)
def test_newton_is_exact_on_polynomials_up_to_its_order(run, order, unit, seed):
    grid, computed, step = run
    times = np.arange(len(grid)) / len(grid) if unit == "step" else grid.levels
    polynomial = np.polynomial.Polynomial(np.random.default_rng(seed).normal(size=order + 1))
    row = Newton(order, unit).row(computed, step, grid)
    assert row @ polynomial(times[list(computed)]) == pytest.approx(
        polynomial(times[step]), abs=1e-11 * np.abs(row).sum()
    )


@given(
    steps=st.integers(2, 40),
    order=st.integers(0, 4),
    first_enhance=st.integers(0, 6),
    chosen=st.sets(st.integers(1, 39)),
    seed=st.integers(0, 2**32),
)
def test_taylorseer_rows_are_its_recursion_on_features(steps, order, first_enhance, chosen, seed):
    features = np.random.default_rng(seed).normal(size=(steps, 5))
    program = PublishedTaylorSeer(order, first_enhance)
    forecaster = TaylorSeer(order, first_enhance)
    grid = Grid.uniform(steps)
    computed = []
    for step in range(steps):
        if step == 0 or step in chosen:
            program.compute(step, features[step])
            computed.append(step)
        else:
            row = forecaster.row(computed, step, grid)
            bound = 1e-12 * max(1.0, np.abs(row).sum())
            assert np.allclose(row @ features[computed], program.forecast(step), rtol=0, atol=bound)


@pytest.mark.parametrize(("computed", "step"), [((0, 1, 2, 6), 8), ((0, 2, 4, 6), 8), ((0, 1, 2, 3), 4)])
def test_order_two_is_exact_on_quadratics_for_newton_but_not_for_taylorseer(computed, step):
    quadratic = np.array(computed, dtype=np.float64) ** 2
    grid = Grid.uniform(10)
    assert Newton(2).row(computed, step, grid) @ quadratic == pytest.approx(step**2, abs=1e-12)
    assert abs(TaylorSeer(2).row(computed, step, grid) @ quadratic - step**2) >= 1.0


@given(run=runs(least_computed=2))
def test_order_one_taylorseer_is_newton_in_steps(run):
    grid, computed, step = run
    row = TaylorSeer(1, first_enhance=0).row(computed, step, grid)
    assert np.allclose(row, Newton(1).row(computed, step, grid), rtol=1e-13, atol=1e-13)


@given(run=runs(), order=st.integers(1, 5))
def test_adams_bashforth_solves_the_moment_equations(run, order):
    grid, computed, step = run
    levels = [*grid.levels.tolist(), grid.final_level]
    expected = [float(w) for w in moment_row([levels[j] for j in computed[-order:]], levels[step], levels[step + 1])]
    row = AdamsBashforth(order).row(computed, step, grid)
    assert not row[: -len(expected)].any()
    assert np.allclose(row[-len(expected) :], expected, rtol=0, atol=1e-11 * np.abs(expected).sum())


@given(run=runs(least_computed=5), order=st.integers(1, 5), seed=st.integers(0))
def test_adams_bashforth_integrates_polynomials_below_its_order(run, order, seed):
    grid, computed, step = run
    polynomial = np.polynomial.Polynomial(np.random.default_rng(seed).normal(size=order))
    primitive = polynomial.integ()
    start, end = grid.levels[step], grid.levels[step + 1] if step + 1 < len(grid) else grid.final_level
    row = AdamsBashforth(order).row(computed, step, grid)
    slope = row @ polynomial(grid.levels[list(computed)])
    assert (end - start) * slope == pytest.approx(primitive(end) - primitive(start), abs=1e-11 * np.abs(row).sum())


@pytest.mark.parametrize(
    ("order", "coefficients"),
    [(1, [1]), (2, [-3 / 2, 5 / 2]), (3, [23 / 12, -16 / 3, 53 / 12]), (4, [-55 / 24, 211 / 24, -293 / 24, 161 / 24])],
)
def test_adams_bashforth_on_even_steps_has_the_classical_lagged_coefficients(order, coefficients):
    row = AdamsBashforth(order).row(tuple(range(6)), 6, Grid.uniform(16))
    assert np.allclose(row[-order:], coefficients, rtol=1e-12, atol=1e-12)
    assert not row[:-order].any()


def test_a_last_step_of_no_length_takes_the_value_there():
    grid = Grid([3.0, 2.0, 1.0, 0.0], "timestep")
    assert AdamsBashforth(2).row((0, 1, 2), 3, grid).tolist() == pytest.approx([0.0, -1.0, 2.0])
