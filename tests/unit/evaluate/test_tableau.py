"""Solvers as tableaus, without torch: known answers, orders of convergence, files."""

import itertools
import math

import numpy as np
import pytest

from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.deis import deis_tableau, deis_weights
from foreseer.evaluate.peers.dpm_solver_v3 import dpm_solver_v3_tableau
from foreseer.evaluate.peers.gits import best_steps
from foreseer.evaluate.peers.ipndm import ipndm_tableau, ipndm_weights
from foreseer.evaluate.peers.model_statistics import ModelStatistics, statistics_of
from foreseer.evaluate.peers.noise_path import NoisePath, lagrange_weights
from foreseer.evaluate.peers.tableau import Tableau

SPREAD = 0.5  # standard deviation of Gaussian data: the flow then has a closed form
UNEVEN = (1.0, 0.83, 0.55, 0.3, 0.12, 0.0)


def slope(level):
    """The velocity of Gaussian data is this times the sample."""
    return (level - (1 - level) * SPREAD**2) / ((1 - level) ** 2 * SPREAD**2 + level**2)


def velocity(sample, time):
    return sample * slope(time / 1000)


def even(steps):
    return NoisePath.of_flow(np.linspace(1, 0, steps + 1))


def order_of(make, counts=(20, 40, 80)):
    """Observed order of convergence: from 1.0 at level 1 the exact flow ends at ``SPREAD``."""
    errors = [abs(make(even(count)).solve(velocity, 1.0) - SPREAD) for count in counts]
    return [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)], errors[-1]


@pytest.mark.parametrize(
    ("make", "least", "most"),
    [
        (lambda path: ipndm_tableau(path, order=1), 0.9, 1.1),
        (lambda path: ipndm_tableau(path, order=2), 1.9, 2.3),
        (lambda path: deis_tableau(path, degree=0), 0.9, 1.1),
        (lambda path: deis_tableau(path, degree=1), 1.9, 2.1),
    ],
)
def test_solvers_converge_at_their_order(make, least, most):
    orders, _ = order_of(make)
    assert all(least < order < most for order in orders)


def test_higher_degrees_are_more_accurate():
    # Their order is limited by the first step, which is Euler's for every method that has no past.
    for make in (ipndm_tableau, deis_tableau):
        errors = [order_of(lambda path, degree=degree, make=make: make(path, degree))[1] for degree in (1, 2, 3)]
        assert errors[1] < 0.5 * errors[0]
        assert errors[2] < errors[0]


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_deis_integrates_polynomials_exactly(degree):
    path = NoisePath.of_flow(UNEVEN)
    for step in range(degree, path.steps):
        weights = deis_weights(path, step, step - degree)
        nodes = path.tau[step - degree : step + 1]
        for power in range(degree + 1):
            # The integral of s^p d(s / (1 - s)), by parts of 1 / (1 - s)^2 on a fine grid.
            fine = np.linspace(path.tau[step], path.tau[step + 1], 200_001)
            exact = np.trapezoid(fine**power / (1 - fine) ** 2, fine)
            assert weights @ nodes**power == pytest.approx(exact, rel=1e-7, abs=1e-9)


def test_deis_of_degree_0_is_euler():
    path = NoisePath.of_flow(UNEVEN)
    deis, euler = deis_tableau(path, degree=0), ipndm_tableau(path, order=1)
    assert np.allclose(deis.weights, euler.weights, atol=3e-6)
    assert np.allclose(deis.start, 1, atol=3e-6)
    assert np.array_equal(euler.weights, np.tril(np.broadcast_to(np.diff(UNEVEN), (5, 5))))


def test_ipndm_weights_are_consistent():
    weights = ipndm_weights(6, 4)
    assert np.allclose(weights.sum(1), 1)
    assert weights[5].tolist() == pytest.approx([0, 0, -9 / 24, 37 / 24, -59 / 24, 55 / 24])


def test_ddim_levels_give_ddim_steps():
    kept = np.array([0.1, 0.5, 0.9, 1.0])
    data, noise = np.sqrt(kept), np.sqrt(1 - kept)
    path = NoisePath(np.array([900.0, 500, 100, 0]), data, noise, noise / data, np.zeros(3), np.ones(3), False)
    sample, outputs = 0.7, [0.3, -0.2, 0.9]
    expected = sample
    for step, output in enumerate(outputs):
        clean = (expected - noise[step] * output) / data[step]
        expected = data[step + 1] * clean + noise[step + 1] * output
    replay = iter(outputs)
    for tableau in (ipndm_tableau(path, order=1), deis_tableau(path, degree=0)):
        replay = iter(outputs)
        assert tableau.solve(lambda sample, time, replay=replay: next(replay), sample) == pytest.approx(expected)


def exact_statistics(path, growth=0.0, bias=0.0, linear=None):
    levels = path.tau[:-1]
    linear = np.array([slope(level) for level in levels]) if linear is None else np.full(path.steps, linear)
    return ModelStatistics(path, linear, np.full(path.steps, growth), np.full(path.steps, bias))


@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_v3_is_exact_for_a_linear_model(order, corrector):
    reference = even(2000)
    coarse = reference.select([0, 600, 1500])
    tableau = dpm_solver_v3_tableau(exact_statistics(reference), coarse, order, corrector=corrector)
    assert tableau.solve(velocity, 1.0) == pytest.approx(SPREAD, rel=2e-3)  # d is unknown beyond the last level
    assert abs(ipndm_tableau(coarse, 2).solve(velocity, 1.0) - SPREAD) > 0.05


@pytest.mark.parametrize("corrector", [True, False])
def test_dpm_solver_v3_is_exact_for_a_rest_that_follows_its_statistics(corrector):
    reference, rate, bias, linear = even(400), 1.3, 0.4, -0.7
    path = reference.select([0, 190, 330])
    statistics = exact_statistics(reference, rate, bias, linear)
    tableau = dpm_solver_v3_tableau(statistics, path, 1, corrector=corrector)

    def model(sample, time):  # N = c exp(rate s) - bias / rate solves N' = rate N + bias
        return linear * sample + 2.0 * math.exp(rate * time / 1000) - bias / rate

    fine = np.linspace(1, 0, 200_001)
    rest = np.exp(-linear * fine) * (2.0 * np.exp(rate * fine) - bias / rate)
    exact = math.exp(-linear) * 1.0 + np.trapezoid(rest, fine)
    assert tableau.solve(model, 1.0) == pytest.approx(exact, rel=1e-4)


def test_dpm_solver_v3_without_statistics_is_adams_bashforth_and_converges():
    def make(path, order, corrector):
        reference = even(400)
        return dpm_solver_v3_tableau(exact_statistics(reference, linear=0.0), path, order, corrector=corrector)

    path = NoisePath.of_flow(UNEVEN)
    first = make(path, 1, False)
    assert np.allclose(first.weights, ipndm_tableau(path, order=1).weights, atol=1e-12)
    second = make(path, 2, False)
    nodes, inside = path.tau[1:3], np.linspace(path.tau[2], path.tau[3], 10_001)
    exact = np.trapezoid(lagrange_weights(nodes, inside), inside, axis=1)
    assert np.allclose((second.weights[2] - second.weights[1])[1:3], exact, atol=1e-9)
    orders, _ = order_of(lambda path: make(path, 2, False))
    assert all(1.8 < order < 2.3 for order in orders)
    errors = [order_of(lambda path, corrector=corrector: make(path, 2, corrector))[1] for corrector in (False, True)]
    assert errors[1] < errors[0]


def test_statistics_recover_a_known_model():
    path, generator = even(200), np.random.default_rng(0)
    linear, rate, bias = np.array([0.5, -1.0]), np.array([0.8, -0.6]), np.array([0.3, 0.1])
    amplitudes = generator.normal(size=(30, 1, 2))
    rest = amplitudes * np.exp(rate * path.tau[:-1, None]) - bias / rate
    samples = generator.normal(size=rest.shape)
    slopes, derivatives = linear * samples + rest, np.broadcast_to(linear, rest.shape)
    statistics = statistics_of(path, samples, slopes, derivatives)
    inner = slice(1, -1)  # one-sided differences at the ends
    assert np.allclose(statistics.linear, linear)
    assert np.allclose(statistics.growth[inner], np.broadcast_to(rate, (198, 2)), rtol=1e-3)
    assert np.allclose(statistics.bias[inner], np.broadcast_to(bias, (198, 2)), rtol=2e-2)


def test_pooled_statistics_are_shared_by_the_elements_of_a_channel():
    path, generator = even(10), np.random.default_rng(0)
    samples, slopes, derivatives = generator.normal(size=(3, 4, 10, 5, 2))
    pooled = statistics_of(path, samples, slopes, derivatives, axes=(-2,))
    assert pooled.linear.shape == (10, 5, 2)
    assert np.allclose(pooled.linear, derivatives.mean((0, 2))[:, None])
    assert np.allclose(pooled.growth, pooled.growth[:, :1])
    assert not np.allclose(statistics_of(path, samples, slopes, derivatives).growth, pooled.growth)


@pytest.mark.parametrize("growth", [0.8, 1.0, 1.15])
@pytest.mark.parametrize("count", range(1, 8))
def test_dynamic_programming_finds_what_trying_everything_finds(count, growth):
    total = 7
    for seed in range(5):
        costs = np.full((total, total + 1), np.inf)
        later = np.triu_indices(total, 1, total + 1)
        costs[later] = np.random.default_rng(seed).random(len(later[0]))

        def cost(steps, costs=costs):
            ends = [*steps[1:], total]
            return sum(growth**k * costs[pair] for k, pair in enumerate(zip(steps, ends, strict=True)))

        rivals = [[0, *rest] for rest in itertools.combinations(range(1, total), count - 1)]
        steps = best_steps(costs, count, growth)
        assert steps == min(rivals, key=cost)


@pytest.mark.parametrize("count", [0, 8])
def test_more_levels_than_the_reference_has_are_refused(count):
    with pytest.raises(PeerError, match=f"{count} steps cannot be chosen of 7: ask for 1 to 7"):
        best_steps(np.zeros((7, 8)), count, 1.0)


def test_a_file_gives_the_tableau_back(tmp_path):
    weights = np.tril(np.random.default_rng(0).normal(size=(3, 3)))
    tableau = Tableau(np.arange(3.0), np.ones(3), weights, np.zeros(3), {"solver": "test", "order": 2})
    tableau.save(tmp_path / "a.solver.safetensors")
    read = Tableau.load(tmp_path / "a.solver.safetensors")
    assert all(np.array_equal(getattr(read, name), getattr(tableau, name)) for name in ("times", "start", "weights"))
    assert np.array_equal(read.constant, tableau.constant)
    assert read.settings == {"solver": "test", "order": 2}
    (tmp_path / "a.solver.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(PeerError, match="is damaged or not a solver"):
        Tableau.load(tmp_path / "a.solver.safetensors")


@pytest.mark.parametrize(
    ("start", "weights", "message"),
    [
        (np.ones(3), np.zeros((2, 2)), "expected"),
        (np.ones(2), np.full((2, 2), np.nan), "finite"),
        (np.ones(2), np.ones((2, 2)), "must be zero for j > i"),
        (np.ones((2, 4)), np.zeros((2, 2)), "expected"),
    ],
)
def test_coefficients_that_make_no_solver_are_refused(start, weights, message):
    with pytest.raises(PeerError, match=message):
        Tableau(np.zeros(2), start, weights)
