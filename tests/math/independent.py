"""The published methods written again from their equations, on features, in exact fractions."""

from fractions import Fraction
from math import factorial

import numpy as np
from hypothesis import strategies as st

from foreseer.grid import Grid


@st.composite
def runs(draw, least_computed=1, most_steps=24, widest=3):
    """An uneven grid, computed steps with gaps of at most ``widest``, and a later step to forecast."""
    gaps = draw(st.lists(st.integers(1, widest), min_size=least_computed - 1, max_size=8))
    computed = [0]
    for gap in gaps:
        computed.append(computed[-1] + gap)
    step = computed[-1] + draw(st.integers(1, 5))
    steps = max(step + 1, draw(st.integers(1, most_steps)))
    falls = draw(st.lists(st.integers(2, 6), min_size=steps, max_size=steps))
    levels = np.cumsum(np.array(falls, dtype=np.float64))[::-1] / sum(falls)
    return Grid(np.ascontiguousarray(levels)), tuple(computed), step


def lagrange_row(nodes, target):
    """Weights of the interpolating polynomial, each the product of (t - t_m) / (t_j - t_m)."""
    nodes, target = [Fraction(node) for node in nodes], Fraction(target)
    row = []
    for j, node in enumerate(nodes):
        weight = Fraction(1)
        for m, other in enumerate(nodes):
            if m != j:
                weight *= (target - other) / (node - other)
        row.append(weight)
    return row


class PublishedTaylorSeer:
    """State of the released program: a cache of the feature's derivatives, and the activated steps."""

    def __init__(self, order, first_enhance):
        self.order, self.first_enhance = order, first_enhance
        self.derivatives = {}
        self.activated_steps = []

    def compute(self, step, feature):
        self.activated_steps.append(step)
        updated = {0: feature}
        for k in range(self.order):
            if k not in self.derivatives or step <= self.first_enhance - 2:
                break
            distance = self.activated_steps[-1] - self.activated_steps[-2]
            updated[k + 1] = (updated[k] - self.derivatives[k]) / distance
        self.derivatives = updated

    def forecast(self, step):
        x = step - self.activated_steps[-1]
        return sum(self.derivatives[k] * x**k / factorial(k) for k in self.derivatives)


def chebyshev_basis(tau, degree):
    """T_0 = 1, T_1 = tau, T_{k+1} = 2 tau T_k - T_{k-1}."""
    basis = [tau**0, tau]
    for _ in range(degree):
        basis.append(2 * tau * basis[-1] - basis[-2])
    return basis[: degree + 1]


def spectrum_tau(steps, grid, mapping):
    if mapping == "noise":
        levels = grid.levels[np.asarray(steps)]
        return 2 * (levels - grid.final_level) / (grid.levels[0] - grid.final_level) - 1
    return np.asarray(steps) * 2 / (50 if mapping == "published" else len(grid)) - 1


def spectrum_forecast(features, computed, step, grid, degree, ridge, window, mapping):
    """Two stages: fit (degree + 1) x dim coefficients by the ridge normal equations, then evaluate them."""
    first = 0 if window is None else max(0, len(computed) - window)
    design = np.stack(chebyshev_basis(spectrum_tau(computed[first:], grid, mapping), degree), axis=1)
    normal = design.T @ design + ridge * np.eye(degree + 1)
    coefficients = np.linalg.solve(normal, design.T @ features[first:])
    return np.stack(chebyshev_basis(spectrum_tau([step], grid, mapping), degree), axis=1)[0] @ coefficients


def forward_difference_forecast(features, computed, step, order):
    """Forward binomials u, u (u - 1) / 2, ... on the last differences, taken as spaced by the last gap."""
    if len(computed) == 1:
        return features[-1]
    u = (step - computed[-1]) / (computed[-1] - computed[-2])
    forecast, factor, table = features[-1], 1.0, features
    for k in range(1, min(order, len(computed) - 1) + 1):
        table = table[1:] - table[:-1]
        factor *= (u - k + 1) / k
        forecast = forecast + factor * table[-1]
    return forecast


def solve(matrix, right):
    """Gauss-Jordan elimination in fractions; ``right`` is one column."""
    size = len(matrix)
    rows = [[*map(Fraction, row), Fraction(value)] for row, value in zip(matrix, right, strict=True)]
    for k in range(size):
        pivot = next(index for index in range(k, size) if rows[index][k] != 0)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [value / rows[k][k] for value in rows[k]]
        for index in range(size):
            if index != k:
                rows[index] = [a - rows[index][k] * b for a, b in zip(rows[index], rows[k], strict=True)]
    return [row[-1] for row in rows]


def moment_row(nodes, start, end):
    """Weights w with sum w_j t_j^k = mean of t^k over [start, end] for each k below their number."""
    nodes, start, end = [Fraction(node) for node in nodes], Fraction(start), Fraction(end)
    powers = range(len(nodes))
    means = [(end ** (k + 1) - start ** (k + 1)) / ((k + 1) * (end - start)) for k in powers]
    return solve([[node**k for node in nodes] for k in powers], means)


def spectrum_row(computed, step, total, degree, ridge):
    """The same row as the two stages give, in fractions: phi* (Phi' Phi + ridge I)^-1 Phi'."""
    design = [chebyshev_basis(Fraction(2 * i, total) - 1, degree) for i in computed]
    target = chebyshev_basis(Fraction(2 * step, total) - 1, degree)
    size = range(degree + 1)
    normal = [[sum(row[a] * row[b] for row in design) + (a == b) * Fraction(ridge) for b in size] for a in size]
    solved = solve(normal, target)
    return [sum(row[a] * solved[a] for a in size) for row in design]


def rollout(matrix, computed, features, step):
    """L2P's loop: row s of the matrix, applied to the history, gives step s + 1 unless that step computes."""
    history = []
    for i in range(step + 1):
        if i in computed:
            history.append(features[computed.index(i)])
        else:
            history.append(sum(matrix[i - 1][j] * history[j] for j in range(i)))
    return history[step]
