"""What every forecaster keeps to, whatever its method."""

import inspect
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import foreseer.forecast
from foreseer.errors import ForecastError
from foreseer.forecast import L2P, AdamsBashforth, Chebyshev, Forecaster, KernelRows, Newton, Reuse, TaylorSeer
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from tests.math.independent import runs

STEPS = 12
MATRIX = np.tril(np.random.default_rng(0).normal(size=(STEPS, STEPS)))
POLYNOMIAL = [
    Reuse(),
    *(TaylorSeer(order, first_enhance) for order in range(5) for first_enhance in (0, 3)),
    *(Newton(order, unit) for order in (0, 1, 2, 5, 8) for unit in ("step", "noise")),
    *(AdamsBashforth(order) for order in range(1, 6)),
    *(Chebyshev(blend=0.0, newton_order=order) for order in (1, 2, 3)),
]
ANY_LENGTH = [
    *POLYNOMIAL,
    Chebyshev(),
    Chebyshev(degree=0, ridge=0.0),
    Chebyshev(degree=9, ridge=0.0),
    *(Chebyshev(window=3, blend=0.5, newton_order=3, mapping=mapping) for mapping in ("steps", "published", "noise")),
]
KERNEL = Kernel(Grid.uniform(STEPS), (MATRIX @ MATRIX.T)[None])
OWN_GRID = [L2P(MATRIX), KernelRows(KERNEL), KernelRows(KERNEL, 0.1, Newton(1), sum_to_one=True)]
ALL = [*ANY_LENGTH, *OWN_GRID]


def test_every_registered_forecaster_is_tested_here():
    registered = {
        name
        for name in foreseer.forecast.__all__
        if inspect.isclass(cls := getattr(foreseer.forecast, name))
        and issubclass(cls, Forecaster)
        and not inspect.isabstract(cls)
    }
    assert registered == {type(forecaster).__name__ for forecaster in ALL}


@pytest.mark.parametrize("forecaster", ANY_LENGTH, ids=repr)
@given(run=runs())
def test_a_row_is_one_finite_weight_a_computed_step_and_always_the_same(forecaster, run):
    grid, computed, step = run
    row = forecaster.row(computed, step, grid)
    assert row.shape == (len(computed),)
    assert row.dtype == np.float64
    assert np.all(np.isfinite(row))
    expected = row.copy()
    row[:] = np.nan  # a row is the caller's own
    assert np.array_equal(forecaster.row(list(computed), step, grid), expected)


@pytest.mark.parametrize("forecaster", OWN_GRID, ids=repr)
@given(chosen=st.sets(st.integers(1, STEPS - 1)))
def test_learned_rows_are_one_finite_weight_a_computed_step_and_always_the_same(forecaster, chosen):
    for step in range(1, STEPS):
        computed = (0, *sorted(j for j in chosen if j < step))
        row = forecaster.row(computed, step, Grid.uniform(STEPS))
        assert (row.shape, row.dtype) == ((len(computed),), np.float64)
        assert np.all(np.isfinite(row))
        assert np.array_equal(forecaster.row(list(computed), step, Grid.uniform(STEPS)), row)


@pytest.mark.parametrize("forecaster", POLYNOMIAL, ids=repr)
@given(run=runs())
def test_polynomial_methods_forecast_a_constant_exactly(forecaster, run):
    grid, computed, step = run
    row = forecaster.row(computed, step, grid)
    assert row.sum() == pytest.approx(1.0, abs=1e-11 * np.abs(row).sum())


def test_one_computed_step_is_reused():
    rows = {repr(forecaster): forecaster.row((0,), 3, Grid.uniform(STEPS)).tolist() for forecaster in POLYNOMIAL}
    assert rows == {name: [1.0] for name in rows}


@pytest.mark.parametrize(
    ("computed", "step"),
    [
        ((), 3),
        ((1, 2), 3),
        ((0, 2, 1), 3),
        ((0, 2, 2), 3),
        ((-1, 0), 3),
        ((0, 3), 3),
        ((0, 5), 3),
        ((0,), 0),
        ((0,), -1),
        ((0,), STEPS),
        ((0,), 10**9),
        ((0, 1.5), 3),
        ((0, None), 3),
        ((0, "one"), 3),
        (((0, 1),), 3),
    ],
    ids=repr,
)
def test_impossible_steps_are_refused_by_all(computed, step, as_users_call):
    for forecaster in ALL:
        with pytest.raises(ForecastError):
            forecaster.row(computed, step, Grid.uniform(STEPS))


@pytest.mark.parametrize("forecaster", ALL, ids=repr)
def test_a_forecaster_is_frozen_data(forecaster):
    name = next(iter(forecaster.__dataclass_fields__), "order")
    with pytest.raises(FrozenInstanceError):
        setattr(forecaster, name, 1)
    options = {key: getattr(forecaster, key) for key in forecaster.__dataclass_fields__}
    again = type(forecaster)(**options)
    assert hash(forecaster) == hash(forecaster)
    if "__eq__" in vars(type(forecaster)):  # kernels are compared by identity, and so are their rows
        assert again == forecaster
        assert hash(again) == hash(forecaster)
    assert len({other for other in ALL if other == forecaster}) == 1
    assert repr(forecaster).startswith(f"{type(forecaster).__name__}(")


def test_the_repr_makes_the_forecaster_again():
    assert [eval(repr(forecaster), vars(foreseer.forecast).copy()) for forecaster in ANY_LENGTH] == ANY_LENGTH


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
