"""Rows as expansions in backward differences: the same forecast, and the way back is exact."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given

from foreseer.forecast import Newton, Reuse
from foreseer.grid import Grid
from foreseer.plan import Plan
from tests.support.plans import make_plan, plans


def backward_differences(values):
    """Differences of orders 0, 1, ... at the newest value; ``values`` oldest first."""
    differences = []
    while values:
        differences.append(values[-1])
        values = [later - earlier for earlier, later in pairwise(values)]
    return differences


def assert_same_forecasts(plan):
    """In fractions, on features that are random integers."""
    features = [int(value) for value in np.random.default_rng(0).integers(-1000, 1000, size=len(plan.grid))]
    expansion = plan.to_differences()
    assert sorted(expansion.terms) == list(plan.forecast_steps)
    for step in plan.forecast_steps:
        before = [j for j in plan.computed_steps if j < step]
        direct = sum(Fraction(float(plan.rows[step, j])) * features[j] for j in before)
        differences = backward_differences([features[j] for j in before])
        assert sum(w * d for w, d in zip(expansion.terms[step], differences, strict=True)) == direct


@given(plans)
def test_the_expansion_is_the_same_forecast_and_comes_back_to_the_last_bit(plan):
    assert_same_forecasts(plan)
    again = plan.to_differences().to_plan()
    assert again == plan
    assert dict(again.provenance) == dict(plan.provenance)


def test_forty_nine_computed_steps_come_back_to_the_last_bit():
    plan = make_plan(3, steps=50, zeros=0.0, computed_share=2.0)
    generator, rows = np.random.default_rng(4), np.array(plan.rows)
    rows[49, :49], rows[49, 49] = generator.normal(size=49), 0.0
    plan = Plan(plan.grid, tuple(range(49)), rows)
    assert_same_forecasts(plan)
    again = plan.to_differences().to_plan()
    assert np.array_equal(again.rows.view(np.int64), plan.rows.view(np.int64))


def test_coefficients_of_known_methods():
    plan = Plan.compile(Grid.uniform(6), (0, 1, 2, 3), Newton(2))
    table = plan.to_differences().coefficients
    assert table.shape == (6, 4)
    assert table[4].tolist() == pytest.approx([1, 1, 1, 0])  # u (u + 1) / 2 at u = 1
    assert table[5].tolist() == pytest.approx([1, 2, 3, 0])
    assert not table[:4].any()
    reuse = Plan.compile(Grid.uniform(6), (0, 1, 2, 3), Reuse()).to_differences()
    assert reuse.coefficients[4].tolist() == [1, 0, 0, 0]
