"""Measured orders of convergence: halve the spacing, and the error falls by two to the order."""

import numpy as np
import pytest

from foreseer.forecast import AdamsBashforth, Newton
from foreseer.grid import Grid

SMOOTH = {"exp": (np.exp, np.exp), "sin": (lambda t: np.sin(2 * t - 0.4), lambda t: -np.cos(2 * t - 0.4) / 2)}
SIZES = (64, 128, 256)


def even(steps):
    return Grid.uniform(steps)


def warped(steps):
    """A shifted flow-matching grid: s t / (1 + (s - 1) t)."""
    levels = Grid.uniform(steps).levels
    return Grid(3.0 * levels / (1.0 + 2.0 * levels))


def slope(errors):
    return np.log2(errors[0] / errors[-1]) / (len(errors) - 1)


def pattern(steps, count, gaps):
    """``count`` steps up to the middle of the run, spaced by ``gaps`` in turn, and step 0."""
    chosen = [steps // 2]
    while len(chosen) < count:
        chosen.append(chosen[-1] - gaps[len(chosen) % len(gaps)])
    return (0, *sorted(chosen))


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize(
    ("unit", "make_grid", "gaps"), [("step", even, (2,)), ("noise", even, (2,)), ("noise", warped, (1, 3))]
)
def test_newton_converges_with_its_order_plus_one(name, order, unit, make_grid, gaps):
    function, _ = SMOOTH[name]
    errors = []
    for steps in SIZES:
        grid, computed = make_grid(steps), pattern(steps, order + 1, gaps)
        values, step = function(grid.levels), steps // 2 + 2
        errors.append(abs(Newton(order, unit).row(computed, step, grid) @ values[list(computed)] - values[step]))
    assert slope(errors) == pytest.approx(order + 1, abs=0.2)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize(("make_grid", "gaps"), [(even, (1,)), (even, (2,)), (warped, (1, 3))])
def test_adams_bashforth_converges_with_its_order(name, order, make_grid, gaps):
    function, primitive = SMOOTH[name]
    errors = []
    for steps in SIZES:
        grid, computed = make_grid(steps), pattern(steps, order, gaps)
        step = steps // 2 + 1
        start, end = grid.levels[step], grid.levels[step + 1]
        slope_over_step = AdamsBashforth(order).row(computed, step, grid) @ function(grid.levels[list(computed)])
        errors.append(abs(slope_over_step - (primitive(end) - primitive(start)) / (end - start)))
    assert slope(errors) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_quadrature_by_adams_bashforth_converges_with_its_order(order):
    """Every second step is computed: the order of the run is limited by Euler or by the rows."""
    errors = []
    for steps in (64, 128, 256, 512):
        grid = Grid.uniform(steps)
        ends = np.append(grid.levels[1:], grid.final_level)
        total = 0.0
        for step in range(1, steps):
            computed = tuple(range(0, step, 2)) if step < 12 else (0, *range(step - 10 + step % 2, step, 2))
            if len(computed) < order:
                total += np.exp(ends[step]) - np.exp(grid.levels[step])
                continue
            slope_over_step = AdamsBashforth(order).row(computed, step, grid) @ np.exp(grid.levels[list(computed)])
            total += (ends[step] - grid.levels[step]) * slope_over_step
        errors.append(abs(total - (1.0 - np.exp(grid.levels[1]))))
    assert slope(errors) == pytest.approx(order, abs=0.2)
