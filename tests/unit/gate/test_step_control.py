"""Step-size control of forecasts."""

import itertools

import pytest
import torch

import foreseer as fs
from foreseer.forecast import Newton
from foreseer.gate import GatedPolicy, GateError, StepControl

GRID = fs.Grid.uniform(40)


def spent(model, max_nfe=None, tolerance=1e-3):
    denoise = fs.wrap(
        model, GatedPolicy(StepControl(tolerance, order=2), Newton(order=1, unit="noise"), max_nfe=max_nfe), GRID
    )
    x = torch.linspace(0.5, 1.5, 6, dtype=torch.float64).reshape(2, 3)
    with torch.no_grad():
        for i, t in enumerate(GRID):
            denoise(i, x, t)
    return denoise.record.computed_steps


def line(x, t):
    return x * (2 + t)


def bend(x, t):
    return x * (2 + torch.cos(torch.tensor(6.0 * t)))


def test_the_factor_is_that_of_hairer_norsett_and_wanner():
    gate = StepControl(tolerance=0.01, order=1, safety=0.9)
    assert gate.factor(0.01) == pytest.approx(0.9)
    assert gate.factor(0.04) == pytest.approx(0.45)
    assert gate.factor(0.0025) == pytest.approx(1.8)
    assert StepControl(tolerance=0.01, order=2, safety=1.0).factor(0.08) == pytest.approx(0.5)
    assert gate.factor(0.0) == 3.0
    assert gate.factor(1e9) == gate.factor(float("nan")) == 0.2


def test_gaps_grow_where_forecasts_are_exact_and_stay_short_where_they_are_not():
    straight, bent = spent(line), spent(bend)
    assert straight == (0, 1, 2, 5, 14)
    assert len(bent) > 2 * len(straight)
    assert max(b - a for a, b in itertools.pairwise(bent)) <= 9


def test_a_looser_tolerance_spends_less():
    assert len(spent(bend, tolerance=1e-2)) < len(spent(bend, tolerance=1e-3)) < len(spent(bend, tolerance=1e-4))


@pytest.mark.parametrize("most", [3, 5, 8])
def test_the_maximum_holds_and_its_last_evaluations_are_spread_over_the_run(most):
    steps = spent(bend, max_nfe=most, tolerance=1e-6)
    assert len(steps) == most
    assert steps[-1] > 25 or most == 3


@pytest.mark.parametrize("options", [{"tolerance": 0}, {"order": 0}, {"warmup": 1}, {"safety": 1.5}, {"safety": 0}])
def test_options_are_refused(options):
    with pytest.raises(GateError):
        StepControl(**options)
