r"""DPM-Solver-v3: an exponential integrator around the model's own statistics.

$$z_t = e^{D_t - D_s} z_s + \int_s^t e^{D_t - D_r + S_r - S_s} \Big( \sum_j \ell_j(r)\, g_j + B_r \Big) dr, \qquad
g_j = e^{S_s - S_j} N_j - B_j, \qquad B_r = \int_s^r e^{S_s - S_q}\, b_q\, dq$$

with D and S the integrals of the statistics d and s (:mod:`model_statistics`), N = h - d z, and $\ell_j$ the Lagrange
polynomials over the newest levels. g is constant along a trajectory as far as the statistics say. With a corrector,
each sample is computed again once its own output is there; that takes no further pass.

Source: Zheng et al., "DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics", arXiv 2310.13268
(code under the MIT licence, not copied), Sections 3.1 to 3.3 and the multistep predictor and corrector. The polynomials
are in the network's time, not in the half log-SNR, which is infinite at both ends of flow matching.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from foreseer.evaluate.peers.calibration_runs import CalibrationRuns
from foreseer.evaluate.peers.model_statistics import ModelStatistics, measure_statistics
from foreseer.evaluate.peers.noise_path import NoisePath, lagrange_weights
from foreseer.evaluate.peers.tableau import Tableau

ORDERS = (3, 2)  # the first is the paper's
FINE = 8  # cells of the integrals' grid per step of the reference
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


@dataclass(frozen=True, eq=False)
class _Integrals:
    r"""D, S and $\beta = \int e^{-S} b$ along the reference's levels, at any level between."""

    statistics: ModelStatistics

    def linear(self, tau: float | np.ndarray) -> np.ndarray:
        """Statistic d at some levels."""
        levels = -self.statistics.path.tau
        return _interpolate(levels, self._with_end(self.statistics.linear), -np.atleast_1d(tau))

    def at(self, tau: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """D, S and beta at some levels, shape (len(tau), *E) each."""
        levels, *tables = self._tables
        d, s, beta = (_interpolate(levels, table, -np.atleast_1d(tau)) for table in tables)
        return d, s, beta

    @cached_property
    def _tables(self) -> tuple[np.ndarray, ...]:
        tau = self.statistics.path.tau
        steps = np.arange(len(tau))
        fine = np.interp(np.linspace(0, len(tau) - 1, (len(tau) - 1) * FINE + 1), steps, tau)
        linear, growth, bias = (
            _interpolate(-tau, self._with_end(values), -fine)
            for values in (self.statistics.linear, self.statistics.growth, self.statistics.bias)
        )
        growing = _cumulative(growth, fine)
        return -fine, _cumulative(linear, fine), growing, _cumulative(np.exp(-growing) * bias, fine)

    @staticmethod
    def _with_end(values: np.ndarray) -> np.ndarray:
        """Statistics at the end, where no output was recorded: the last ones."""
        return np.concatenate([values, values[-1:]])


def dpm_solver_v3_tableau(statistics: ModelStatistics, path: NoisePath, order: int, *, corrector: bool) -> Tableau:
    """The solver on a path; lower orders at the first steps and towards the end.

    Args:
        statistics: of the model.
        path: N levels within the reference's.
        order: past outputs in the predictor.
        corrector: whether samples are computed again with their own output.
    """
    integrals, steps = _Integrals(statistics), path.steps
    element = statistics.linear.shape[1:]
    linear = integrals.linear(path.tau[:-1])
    # Columns: the first sample, the outputs, the constant 1.
    units = np.eye(steps + 2).reshape(steps + 2, steps + 2, *(1 for _ in element))
    units = np.broadcast_to(units, (steps + 2, steps + 2, *element))
    previous = current = units[0] / path.scale[0]
    reduced, rows, used = [], [], 1
    for step in range(steps):
        slope = path.slope_of_sample[step] * path.scale[step] * current + path.slope_of_output[step] * units[step + 1]
        reduced.append(slope - linear[step] * current)
        if corrector and step and used > 1:
            current = _advance(integrals, path, previous, reduced, step=step - 1, nodes=range(step, step - used, -1))
        previous, used = current, min(order, step + 1, steps - step)
        current = _advance(integrals, path, current, reduced, step=step, nodes=range(step, step - used, -1))
        rows.append(current * path.scale[step + 1])
    table = np.stack(rows)
    settings = {
        "solver": "DPM-Solver-v3",
        "order": order,
        "corrector": corrector,
        "statistics": "per channel" if statistics.pooled else "per element",
    }
    return Tableau(path.times[:-1], table[:, 0], table[:, 1:-1], table[:, -1], settings)


def dpm_solver_v3_candidates(runs: CalibrationRuns, steps: int) -> list[Tableau]:
    """Settings to choose from: order, corrector, statistics per element or channel; the published first."""
    path = runs.path(steps)
    return [
        dpm_solver_v3_tableau(statistics, path, order, corrector=corrector)
        for statistics in runs.once("model statistics", lambda: measure_statistics(runs))
        for order in ORDERS
        for corrector in (True, False)
    ]


def _advance(
    integrals: _Integrals, path: NoisePath, state: np.ndarray, reduced: list[np.ndarray], *, step: int, nodes: range
) -> np.ndarray:
    """State z at the next level from that at ``step``, with N of ``nodes``; tables over columns."""
    begin, end = path.tau[step], path.tau[step + 1]
    inside = begin + (end - begin) * (_NODES + 1) / 2
    (d_begin, d_end), (s_begin, _), (beta_begin, _) = (values for values in integrals.at(np.array([begin, end])))
    d, s, beta = integrals.at(inside)
    weight = np.exp(d_end - d + s - s_begin) * _column(_WEIGHTS * (end - begin) / 2, d.ndim)
    total = np.exp(d_end - d_begin) * state
    bias = np.exp(s_begin) * (beta - beta_begin)
    constant = (weight * bias).sum(0)
    times = np.interp(-inside, -integrals.statistics.path.tau, integrals.statistics.path.times)
    polynomials = lagrange_weights(path.times[list(nodes)], times)
    _, s_nodes, beta_nodes = integrals.at(path.tau[list(nodes)])
    for row, node in enumerate(nodes):
        share = (weight * _column(polynomials[row], d.ndim)).sum(0)
        total = total + share * np.exp(s_begin - s_nodes[row]) * reduced[node]
        constant = constant - share * np.exp(s_begin) * (beta_nodes[row] - beta_begin)
    total[-1] = total[-1] + constant
    return total


def _column(values: np.ndarray, dimensions: int) -> np.ndarray:
    return values.reshape(-1, *(1 for _ in range(dimensions - 1)))


def _interpolate(levels: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Linear interpolation along the first axis; ``levels`` rise."""
    right = np.clip(np.searchsorted(levels, at), 1, len(levels) - 1)
    share = _column((at - levels[right - 1]) / (levels[right] - levels[right - 1]), values.ndim)
    return (1 - share) * values[right - 1] + share * values[right]


def _cumulative(values: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """Integral along tau by the trapezoidal rule, 0 at the first level."""
    cells = (values[1:] + values[:-1]) / 2 * _column(np.diff(tau), values.ndim)
    return np.concatenate([np.zeros_like(values[:1]), cells.cumsum(0)])
