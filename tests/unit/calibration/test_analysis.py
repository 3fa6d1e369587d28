"""Projection, principal components and the papers' bounds, under their assumptions."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import Float64

import foreseer as fs
from foreseer.calibration.analysis import (
    plot_kernel,
    principal_components,
    projection_fidelity,
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


def taylor_bound(derivative: float, differences: list[float], interval: float, distance: float) -> float:
    r"""Return TaylorSeer's error bound at distance k with interval N (arXiv 2503.06923).

    $E_m(k) \le \frac{M_{m+1}}{(m+1)!} |k|^{m+1} + \sum_{i=1}^m \frac{C_i}{i!\, N^{i-1}} |k|^i$.

    Args:
        derivative: M_{m+1}, a bound on the feature's derivative of order m + 1, per step.
        differences: error constants C_1 to C_m of the differences: $|\Delta^i F / N^i - F^{(i)}| \le C_i / N^{i-1}$.
        interval: N in steps.
        distance: k in steps.
    """
    order = len(differences)
    remainder = derivative / math.factorial(order + 1) * abs(distance) ** (order + 1)
    return remainder + sum(
        bound / (math.factorial(i) * interval ** (i - 1)) * abs(distance) ** i
        for i, bound in enumerate(differences, start=1)
    )


def chebyshev_bound(taus: Float64[np.ndarray, " K"], *, degree: int, ridge: float, scale: float, rho: float) -> float:
    r"""Return Spectrum's bound (theorem 3.3) on the ridge forecast's error in [-1, 1] for one channel.

    A function analytic in the Bernstein ellipse of parameter rho and bounded there by B has coefficients
    $|c_m| \le 2 B \rho^{-m}$ and truncation error $\epsilon = 2 B \rho^{-M} / (\rho - 1)$ (theorem 3.2). With $\Phi$
    the design matrix at the computed taus and $\sigma$ its least singular value, the error is at most
    $\epsilon + \sqrt{M+1}\,\frac{\sqrt{K (M+1)}\, \sqrt{K}\, \epsilon + \lambda \lVert c \rVert}{\sigma^2 + \lambda}$:
    truncation, its effect on the fit, and the ridge's shrinkage.

    Args:
        taus: the computed steps mapped to [-1, 1].
        degree: M.
        ridge: lambda.
        scale: B.
        rho: parameter of the ellipse, above 1.
    """
    design = np.polynomial.chebyshev.chebvander(taus, degree)
    least = float(np.linalg.svd(design, compute_uv=False)[-1]) if len(taus) > degree else 0.0
    truncation = 2 * scale * rho**-degree / (rho - 1)
    coefficients = 2 * scale * math.sqrt(sum(rho ** (-2 * m) for m in range(degree + 1)))
    fit = math.sqrt(len(taus) * (degree + 1)) * math.sqrt(len(taus)) * truncation
    return truncation + math.sqrt(degree + 1) * (fit + ridge * coefficients) / (least**2 + ridge)


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
