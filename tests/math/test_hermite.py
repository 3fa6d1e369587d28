"""HiCache's rows against its released recurrence, and where they are exact."""

from math import factorial, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreseer.forecast import ScaledHermite, TaylorSeer
from tests.math.independent import runs


def hermite(order, x):
    """The physicists' polynomial, from its derivatives' sum."""
    terms = range(order // 2 + 1)
    return factorial(order) * sum(
        (-1) ** m * (2 * x) ** (order - 2 * m) / (factorial(m) * factorial(order - 2 * m)) for m in terms
    )


@given(run=runs(least_computed=2), order=st.integers(0, 4), scale=st.floats(0.1, 1.0))
def test_each_order_of_taylorseer_is_weighed_by_its_scaled_polynomial(run, order, scale):
    grid, computed, step = run
    x = step - computed[-1]
    expected = np.zeros(len(computed))
    for k in range(order + 1):  # TaylorSeer's orders apart
        upper = TaylorSeer(k, 0).row(computed, step, grid)
        lower = TaylorSeer(k - 1, 0).row(computed, step, grid) if k else 0.0
        expected += (upper - lower) * hermite(k, scale * x) * scale**k / x**k
    row = ScaledHermite(order, scale, 0).row(computed, step, grid)
    assert row == pytest.approx(expected, rel=1e-9, abs=1e-9 * max(1.0, np.abs(expected).max()))


@given(run=runs(least_computed=2))
def test_linear_features_are_exact_at_the_root_of_one_half_and_damped_below(run):
    grid, computed, step = run
    features = np.array(computed, dtype=np.float64)
    exact, damped = (ScaledHermite(1, scale, 0).row(computed, step, grid) @ features for scale in (sqrt(0.5), 0.5))
    assert exact == pytest.approx(step)
    assert damped == pytest.approx((step + computed[-1]) / 2)
