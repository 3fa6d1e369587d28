"""Formulas: what some of them share, and the options that they refuse."""

import numpy as np
import pytest
from hypothesis import given

from foreseer.errors import ForecastError
from foreseer.forecast import L2P, AdamsBashforth, Chebyshev, KernelRows, Newton, Reuse, TaylorSeer
from foreseer.grid import Grid
from tests.math.independent import runs

STEPS = 12
POLYNOMIAL = [
    Reuse(),
    *(TaylorSeer(order, first_enhance) for order in range(5) for first_enhance in (0, 3)),
    *(Newton(order, unit) for order in (0, 1, 2, 5, 8) for unit in ("step", "noise")),
    *(AdamsBashforth(order) for order in range(1, 6)),
    *(Chebyshev(blend=0.0, newton_order=order) for order in (1, 2, 3)),
]


@pytest.mark.parametrize("forecaster", POLYNOMIAL, ids=repr)
@given(run=runs())
def test_polynomial_methods_forecast_a_constant_exactly(forecaster, run):
    grid, computed, step = run
    row = forecaster.row(computed, step, grid)
    assert row.sum() == pytest.approx(1.0, abs=1e-11 * np.abs(row).sum())


def test_one_computed_step_is_reused():
    rows = {repr(forecaster): forecaster.row((0,), 3, Grid.uniform(STEPS)).tolist() for forecaster in POLYNOMIAL}
    assert rows == {name: [1.0] for name in rows}


@pytest.mark.parametrize("zero", [TaylorSeer(order=0), Newton(0), Newton(0, "noise"), AdamsBashforth(1)], ids=repr)
@given(run=runs())
def test_the_least_order_is_reuse(zero, run):
    grid, computed, step = run
    assert zero.row(computed, step, grid).tolist() == Reuse().row(computed, step, grid).tolist()
    assert Reuse().row(computed, step, grid).tolist() == [0.0] * (len(computed) - 1) + [1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TaylorSeer(order=-1),
        lambda: TaylorSeer(order=5),
        lambda: TaylorSeer(order=1.5),
        lambda: TaylorSeer(order=True),
        lambda: TaylorSeer(first_enhance=-1),
        lambda: Newton(order=9),
        lambda: Newton(order=-1),
        lambda: Newton(order="two"),
        lambda: Newton(unit="seconds"),
        lambda: AdamsBashforth(order=0),
        lambda: AdamsBashforth(order=6),
        lambda: Chebyshev(degree=-1),
        lambda: Chebyshev(ridge=-0.1),
        lambda: Chebyshev(ridge=float("nan")),
        lambda: Chebyshev(ridge=float("inf")),
        lambda: Chebyshev(window=0),
        lambda: Chebyshev(blend=1.5),
        lambda: Chebyshev(blend=float("nan")),
        lambda: Chebyshev(newton_order=4),
        lambda: Chebyshev(mapping="log"),
        lambda: L2P([]),
        lambda: L2P([[1.0, 0.0]]),
        lambda: L2P([[1.0, 0.5], [0.0, 1.0]]),
        lambda: L2P([[float("nan")]]),
        lambda: L2P([[float("inf")]]),
        lambda: L2P([1.0]),
        lambda: L2P([[1.0], [1.0, 2.0]]),
        lambda: L2P([["one"]]),
        lambda: L2P(None),
    ],
)
def test_options_out_of_range_are_refused(make, as_users_call):
    with pytest.raises(ForecastError):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TaylorSeer("2"), "order is '2'; expected a whole number from 0 to 4"),
        (lambda: TaylorSeer(first_enhance="a"), "first_enhance is 'a'; expected a whole number of at least 0"),
        (lambda: Newton(None), "order is None"),
        (lambda: AdamsBashforth([2]), r"order is \[2\]"),
        (lambda: Chebyshev(degree="4"), "degree is '4'"),
        (lambda: Chebyshev(ridge="a"), "ridge is 'a'; expected a finite number of at least 0"),
        (lambda: Chebyshev(ridge=None), "ridge is None"),
        (lambda: Chebyshev(window=2.5), "window is 2.5"),
        (lambda: Chebyshev(blend="half"), "blend is 'half'; expected a finite number from 0 to 1"),
        (lambda: KernelRows("kernel"), "kernel is a str; expected a Kernel"),
        (lambda: Reuse().row((0, 1), 3, 50), "grid is a int; expected a Grid"),
        (lambda: Reuse().row(None, 3, Grid.uniform(5)), "whole numbers"),
        (lambda: Reuse().row(((0,), (0, 1)), 3, Grid.uniform(5)), "whole numbers"),
        (lambda: Reuse().row((0, 1), "3", Grid.uniform(5)), "whole numbers"),
        (lambda: Reuse().segment((0, 1), ((3,), (4,)), Grid.uniform(5)), "whole numbers"),
        (lambda: Reuse().rows("a", Grid.uniform(5)), "whole numbers"),
        (lambda: Reuse().rows((), Grid.uniform(5)), "at least one"),
        (lambda: Reuse().rows((0, 1.5), Grid.uniform(5)), "whole numbers"),
        (lambda: Reuse().rows((0, 9), Grid.uniform(5)), "Step 9 is not on a grid of 5 steps"),
        (lambda: Reuse().rows((0, 1), [0.5]), "grid is a list"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused_by_name(make, words, as_users_call):
    with pytest.raises(ForecastError, match=words):
        make()
