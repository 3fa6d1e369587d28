r"""DEIS: exponential integration of the noise prediction, extrapolated by a polynomial in time.

$$\frac{x_{i+1}}{\alpha_{i+1}} = \frac{x_i}{\alpha_i} + \sum_{j=i-r}^{i} C_{ij}\, \varepsilon_j, \qquad
C_{ij} = \int_{\rho_i}^{\rho_{i+1}} \ell_j(t(\rho))\, d\rho, \qquad \rho = \sigma / \alpha$$

Source: Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", arXiv 2204.13902 (CC BY 4.0),
the method tAB-DEIS; written from the paper in float64, because $\rho$ is infinite where flow matching begins and
float32 schedulers lose their digits there.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from foreseer.evaluate.peers.noise_path import NoisePath, lagrange_weights, make_tableau
from foreseer.evaluate.peers.tableau import Tableau

DEGREES = (3, 2, 1)  # of the polynomial; the first is the paper's best
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def deis_tableau(path: NoisePath, degree: int = DEGREES[0]) -> Tableau:
    """DEIS of a degree on a path; the first steps have fewer past outputs and so a lower degree.

    >>> deis_tableau(NoisePath.of_flow([1.0, 0.5, 0.0]), degree=0).weights.round(5).tolist()  # Euler
    [[-0.5, 0.0], [-0.5, -0.5]]
    """

    def rule(step: int, samples: list[np.ndarray], noises: list[np.ndarray]) -> np.ndarray:
        first = max(0, step - degree)
        weights = deis_weights(path, step, first)
        total = samples[step] / path.data[step]
        for weight, noise in zip(weights, noises[first:], strict=True):
            total = total + weight * noise
        return path.data[step + 1] * total

    return make_tableau(path, rule, {"solver": "tAB-DEIS", "degree": degree})


def deis_candidates(path: NoisePath) -> list[Tableau]:
    """DEIS of each degree, the published one first."""
    return list(map(partial(deis_tableau, path), DEGREES))


def deis_weights(path: NoisePath, step: int, first: int) -> np.ndarray:
    """C_ij for j from ``first`` to ``step``: Gauss-Legendre quadrature in time."""
    begin, end = path.times[step], path.times[step + 1]
    if step == first:
        return np.array([path.noise[step + 1] / path.data[step + 1] - path.noise[step] / path.data[step]])
    inside = begin + (end - begin) * (_NODES + 1) / 2
    ratio = path.noise / path.data
    growth = _slope_of_ratio(path, ratio, inside, step)
    polynomials = lagrange_weights(path.times[first : step + 1], inside)
    weights = polynomials @ (growth * _WEIGHTS) * (end - begin) / 2
    # The quadrature's error in the sum, which is known exactly, goes to the newest output.
    weights[-1] += ratio[step + 1] - ratio[step] - weights.sum()
    return weights


def _slope_of_ratio(path: NoisePath, ratio: np.ndarray, inside: np.ndarray, step: int) -> np.ndarray:
    r"""$d\rho/dt$ inside a step; exact for flow matching, else with $\log \rho$ linear in time."""
    if path.flow:
        unit = path.times[step] / path.noise[step]
        return 1.0 / (unit * (1.0 - inside / unit) ** 2)
    begin, end = path.times[step], path.times[step + 1]
    low = max(ratio[step + 1], 1e-3 * ratio[step])
    rate = np.log(low / ratio[step]) / (end - begin)
    return rate * ratio[step] * np.exp(rate * (inside - begin))
