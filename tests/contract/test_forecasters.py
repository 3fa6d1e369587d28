"""What every registered forecaster keeps to, whatever its method and options."""

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import foreseer.forecast
from foreseer.errors import ForecastError
from foreseer.forecast import Forecaster
from foreseer.grid import Grid
from tests.math.independent import runs
from tests.support.registry import ARGUMENTS, STEPS, entries, make, variants, wrong_values

GRID = Grid.uniform(STEPS)
FORECASTERS = entries(foreseer.forecast, Forecaster)
VARIANTS = {cls: list(variants(cls)) for cls in FORECASTERS}
ALL = [forecaster for each in VARIANTS.values() for forecaster in each]
FORMULAS = [cls for cls in FORECASTERS if not {field.name for field in fields(cls)} & {*ARGUMENTS}]
EVERY = pytest.mark.parametrize("cls", FORECASTERS, ids=lambda cls: cls.__name__)


def test_the_registry_is_walked():
    assert {cls.__name__ for cls in FORECASTERS} >= {"Reuse", "Newton", "KernelRows", "L2P"}
    assert len(ALL) > 5 * len(FORECASTERS)


@EVERY
@given(chosen=st.sets(st.integers(1, STEPS - 1)), data=st.data())
def test_a_row_is_one_finite_weight_per_computed_step_and_always_the_same(cls, chosen, data):
    forecaster = data.draw(st.sampled_from(VARIANTS[cls]))
    for step in range(1, STEPS):
        computed = (0, *sorted(j for j in chosen if j < step))
        row = forecaster.row(computed, step, GRID)
        assert (row.shape, row.dtype) == ((len(computed),), np.float64)
        assert np.all(np.isfinite(row))
        expected = row.copy()
        row[:] = np.nan  # a row belongs to the caller
        assert np.array_equal(forecaster.row(list(computed), step, GRID), expected)


@pytest.mark.parametrize("cls", FORMULAS, ids=lambda cls: cls.__name__)
@given(run=runs(), data=st.data())
def test_a_formula_serves_any_grid(cls, run, data):
    grid, computed, step = run
    row = data.draw(st.sampled_from(VARIANTS[cls])).row(computed, step, grid)
    assert row.shape == (len(computed),)
    assert np.all(np.isfinite(row))


@EVERY
def test_segments_and_whole_runs_hold_the_same_rows(cls):
    computed = (0, 1, 4, 7)
    for forecaster in VARIANTS[cls]:
        if getattr(forecaster, "feedback_gain", 0.0):
            continue  # rows of a run then depend on the segments before
        rows = forecaster.rows(computed, GRID)
        segment = forecaster.segment(computed, range(8, STEPS), GRID)
        scale = np.abs(rows).max()
        for step in range(STEPS):
            before = [j for j in computed if j < step]
            if step in computed:
                assert np.array_equal(rows[step], np.eye(STEPS)[step])
                continue
            assert np.allclose(rows[step, before], forecaster.row(before, step, GRID), rtol=1e-9, atol=1e-12 * scale)
            assert np.count_nonzero(np.delete(rows[step], before)) == 0
        assert np.allclose(rows[8:, computed], segment, rtol=1e-9, atol=1e-12 * scale)


@EVERY
def test_branches_that_skip_steps_have_rows_over_their_own_steps(cls):
    own = (0, 4)
    rows = make(cls).branch_rows((0, 1, 4, 7), GRID, {"uncond": own})["uncond"]
    assert rows.shape == (STEPS, STEPS)
    for step in range(STEPS):
        assert {*np.flatnonzero(rows[step]).tolist()} <= {j for j in own if j <= step}
    for step in own:
        assert rows[step, step] == 1.0


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
    for cls in FORECASTERS:
        with pytest.raises(ForecastError):
            make(cls).row(computed, step, GRID)


@EVERY
def test_a_forecaster_is_frozen_data(cls):
    for forecaster in VARIANTS[cls]:
        with pytest.raises(FrozenInstanceError):
            setattr(forecaster, next(iter(forecaster.__dataclass_fields__), "order"), 1)
        again = cls(**{name: getattr(forecaster, name) for name in forecaster.__dataclass_fields__})
        assert hash(forecaster) == hash(forecaster)
        if "__eq__" in vars(cls):  # kernels are compared by identity, and so are their rows
            assert again == forecaster
            assert hash(again) == hash(forecaster)
        assert sum(other == forecaster for other in ALL) == 1
        assert repr(forecaster).startswith(f"{cls.__name__}(")


@pytest.mark.parametrize("cls", FORMULAS, ids=lambda cls: cls.__name__)
def test_the_repr_of_a_formula_makes_it_again(cls):
    assert [eval(repr(forecaster), vars(foreseer.forecast).copy()) for forecaster in VARIANTS[cls]] == VARIANTS[cls]


@EVERY
def test_options_of_a_wrong_kind_are_refused_by_name(cls, as_users_call):
    for name, value in wrong_values(cls):
        with pytest.raises(ForecastError, match=name):
            make(cls, **{name: value})
