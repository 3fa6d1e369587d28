"""Projection, principal components and the papers' bounds, under their assumptions."""

import math

import numpy as np
import pytest
import torch

import foreseer as fs
from foreseer.calibration.analysis import (
    chebyshev_bound,
    ideal_taylor_bound,
    plot_kernel,
    principal_components,
    projection_fidelity,
    taylor_bound,
)
from foreseer.calibration.record import record_run
from tests.support.loop_pipeline import sample
from tests.unit.calibration.conftest import STEPS, TRAINING


def test_projection_fidelity_is_the_projection_on_recorded_outputs(loop, kernel):
    one = kernel.subset([1])
    with record_run(loop) as trajectory:
        sample(loop, TRAINING[1], 1, num_inference_steps=STEPS)
    features = torch.stack(trajectory.outputs).double().numpy()
    found = projection_fidelity(one)
    for step in (1, 2, 5):
        basis, _ = np.linalg.qr(features[:step].T)
        inside = np.linalg.norm(basis.T @ features[step]) / np.linalg.norm(features[step])
        assert found[step] == pytest.approx(inside, abs=1e-5)
    assert found[0] == 0
    assert np.all(found[1:] <= 1)
    assert found[3:].min() > 0.95


def test_principal_components_keep_distances(loop, kernel):
    components = principal_components(kernel, prompt=2, count=STEPS)
    gram = kernel.grams[2]
    distances = np.add.outer(np.diag(gram), np.diag(gram)) - 2 * gram
    found = np.sum((components[:, None] - components[None]) ** 2, axis=2)
    assert found == pytest.approx(distances, abs=1e-9 * distances.max() + 1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_ideal_taylor_bound_holds_and_is_reached(order):
    for distance in (0.3, 1.0):
        exact = sum(distance**k / math.factorial(k) for k in range(order + 1))
        error = abs(math.exp(distance) - exact)
        assert error <= ideal_taylor_bound(math.exp(distance), order, distance)
        monomial = distance ** (order + 1) / math.factorial(order + 1)
        assert monomial == pytest.approx(ideal_taylor_bound(1.0, order, distance))


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_taylorseers_bound_holds_for_its_own_differences(distance):
    rate, interval = 0.05, 4
    feature = lambda step: math.exp(rate * step)  # noqa: E731
    grid = fs.Grid.uniform(40)
    computed = (0, 1, 2, 6, 10, 14, 18)
    step = computed[-1] + distance
    row = fs.forecast.TaylorSeer(order=1).row(computed, step, grid)
    error = abs(feature(step) - row @ [feature(one) for one in computed])
    second = rate**2 * feature(step)
    first_difference_errs = second * interval / 2
    assert 0 < error <= taylor_bound(second, [first_difference_errs], interval, distance)


def test_spectrums_bound_holds_for_an_analytic_function():
    pole, degree, ridge = 3.0, 4, 1e-3
    feature = lambda tau: 1 / (pole - tau)  # noqa: E731
    rho = 4.0
    scale = 1 / (pole - (rho + 1 / rho) / 2)
    computed = tuple(range(0, 50, 5))
    grid = fs.Grid.uniform(50)
    taus = 2 * np.array(computed) / 50 - 1
    bound = chebyshev_bound(taus, degree=degree, ridge=ridge, scale=scale, rho=rho)
    for step in (46, 47, 49):
        row = fs.forecast.Chebyshev(degree=degree, ridge=ridge).row(computed, step, grid)
        error = abs(feature(2 * step / 50 - 1) - row @ feature(taus))
        assert 0 < error <= bound
    looser = chebyshev_bound(taus[:3], degree=degree, ridge=ridge, scale=scale, rho=rho)
    assert looser > bound


def test_a_portrait_is_drawn(kernel, tmp_path):
    plan = fs.learned(kernel, nfe=6).compile(kernel.grid)
    plot_kernel(kernel, plan, tmp_path / "portrait.png")
    assert (tmp_path / "portrait.png").read_bytes()[:4] == b"\x89PNG"
