"""Gauss-Newton on second moments: exact on linear problems, damped on others, ended by held-out data."""

import itertools

import numpy as np
import pytest

from foreseer.calibration.gauss_newton import Descent, ErrorMoments, GaussNewtonError, damped_step, iterate


def moments_of(residual, jacobian, samples):
    """Moments over samples of a problem that gives residual and Jacobian (D, N) of each."""
    total = ErrorMoments.none(jacobian(samples[0]).shape[1])
    for sample in samples:
        total += ErrorMoments.of(jacobian(sample).T, residual(sample))
    return total


def linear_problem(seed, size, samples, noise=0.0):
    """Rows A_s and targets b_s with A_s x = b_s for one x, up to noise."""
    generator = np.random.default_rng(seed)
    solution = generator.normal(size=size)
    matrices = generator.normal(size=(samples, 5, size))
    return solution, matrices, matrices @ solution + noise * generator.normal(size=(samples, 5))


def test_a_linear_problem_is_solved_in_one_step():
    solution, matrices, targets = linear_problem(0, size=6, samples=4)
    moments = moments_of(lambda s: -targets[s], lambda s: matrices[s], range(4))
    step = damped_step(moments, 0.0)
    assert step == pytest.approx(solution, abs=1e-9)
    assert moments.expected_square(step) == pytest.approx(0.0, abs=1e-9)
    assert moments.expected_square(np.zeros(6)) == pytest.approx(np.square(targets).sum())


def test_damping_shrinks_the_step_and_turns_it_toward_the_gradient():
    _, matrices, targets = linear_problem(1, size=6, samples=4)
    moments = moments_of(lambda s: -targets[s], lambda s: matrices[s], range(4))
    steps = [damped_step(moments, damping) for damping in (0.0, 1e-2, 1.0, 1e2, 1e6)]
    sizes = [np.linalg.norm(step) for step in steps]
    assert all(larger > smaller for larger, smaller in itertools.pairwise(sizes))
    cosine = -steps[-1] @ moments.gradient / np.linalg.norm(steps[-1]) / np.linalg.norm(moments.gradient)
    assert cosine == pytest.approx(1.0, abs=1e-6)


def test_a_direction_without_effect_is_left_alone():
    columns = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    step = damped_step(ErrorMoments.of(columns, np.array([1.0, 1.0, 1.0])), 0.0)
    assert step[1] == 0.0
    assert np.all(np.isfinite(step))


def rosenbrock(x):
    return np.array([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]]), np.array([[-20.0 * x[0], 10.0], [-1.0, 0.0]])


def test_a_curved_valley_is_followed_to_its_end():
    x, descent = np.array([-1.2, 1.0]), Descent(float(np.square(rosenbrock([-1.2, 1.0])[0]).sum()))
    errors = [descent.error]
    for _ in range(60):
        residual, jacobian = rosenbrock(x)
        moments = ErrorMoments.of(jacobian.T, residual)
        descent, step = iterate(descent, moments, lambda s, x=x: float(np.square(rosenbrock(x + s)[0]).sum()))
        if step is None:
            break
        x = x + step
        errors.append(descent.error)
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert x == pytest.approx([1.0, 1.0], abs=1e-3)


def test_damping_grows_until_a_step_helps():
    _, matrices, targets = linear_problem(2, size=4, samples=3)
    moments = moments_of(lambda s: -targets[s], lambda s: matrices[s], range(3))
    tried = []

    def only_short_steps_help(step):
        tried.append(np.linalg.norm(step))
        return 0.5 if tried[-1] < 0.3 * tried[0] else 2.0

    descent, step = iterate(Descent(1.0, damping=1e-2), moments, only_short_steps_help, tries=8)
    assert descent.damping > 1e-2
    assert step == pytest.approx(damped_step(moments, descent.damping))
    assert tried == sorted(tried, reverse=True)
    assert not descent.stopped


def test_what_never_helps_stops_with_a_reason_and_no_step():
    moments = ErrorMoments.of(np.eye(2), np.ones(2))
    for error in (1.0, 3.0, np.inf, np.nan):
        descent, step = iterate(Descent(1.0), moments, lambda step, error=error: error)
        assert step is None
        assert descent.error == 1.0
        assert "no step" in descent.stopped


def test_held_out_data_end_a_fit_that_would_go_on_to_fit_noise():
    """More parameters than fitted numbers: least squares reach zero there, and miss what was held out."""
    size = 12
    _solution, matrices, targets = linear_problem(3, size=size, samples=8, noise=2.0)
    fitted, held = range(2), range(2, 8)

    def held_out(x):
        return float(np.mean([np.square(matrices[s] @ x - targets[s]).sum() for s in held]))

    def moments_at(x):
        return moments_of(lambda s: matrices[s] @ x - targets[s], lambda s: matrices[s], fitted)

    x, descent = np.zeros(size), Descent(held_out(np.zeros(size)))
    while not descent.stopped and descent.iterations < 50:
        descent, step = iterate(descent, moments_at(x), lambda s, x=x: held_out(x + s))
        x = x if step is None else x + step
    overfitted = damped_step(moments_at(np.zeros(size)), 0.0)
    assert descent.stopped
    assert held_out(x) == descent.error < held_out(np.zeros(size))
    assert held_out(x) < held_out(overfitted)
    assert moments_at(overfitted).square < 1e-9 < moments_at(x).square


def test_options_outside_their_range_are_refused():
    moments = ErrorMoments.of(np.eye(2), np.ones(2))
    with pytest.raises(GaussNewtonError, match="damping"):
        damped_step(moments, -1.0)
    with pytest.raises(GaussNewtonError, match="tries"):
        iterate(Descent(1.0), moments, lambda step: 0.5, tries=0)


def test_relative_moments_are_those_of_the_log_and_an_outlier_does_not_decide():
    """The gradient of sum log |r|^2 / 2 is J^T r / |r|^2; one parameter, two samples that disagree."""
    usual = ErrorMoments.of(np.array([[1.0]]), np.array([-0.1]))
    outlier = ErrorMoments.of(np.array([[1.0]]), np.array([100.0]))
    assert usual.relative().gradient == pytest.approx([-0.1 / 0.1**2])
    assert damped_step(usual + outlier, 0.0) == pytest.approx([-49.95])
    assert damped_step(usual.relative() + outlier.relative(), 0.0) == pytest.approx([0.1], abs=0.02)
    exact = ErrorMoments.of(np.array([[1.0]]), np.array([0.0]))
    assert exact.relative().curvature == exact.curvature  # nothing to divide by
