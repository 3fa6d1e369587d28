"""The expected error of rows, before anything is run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from foreseer.kernel.kernel import Kernel

Rows = Float64[np.ndarray, "T T"]
BranchRows = Mapping[str, Float64[np.ndarray, "T T"]]
CrossRows = Mapping[tuple[str, str], Float64[np.ndarray, "T T"]]


def step_errors(
    kernel: Kernel, rows: Rows, branch_rows: BranchRows | None = None, cross_rows: CrossRows | None = None
) -> Float64[np.ndarray, "P T"]:
    r"""Relative error of each step's forecast, a row a prompt: $\sqrt{E_{ii} / G_{ii}}$, $E = (I - W) G (I - W)^T$.

    Args:
        kernel: the moments.
        rows: W, those that all branches share.
        branch_rows: each branch's own, where the plan has them: then the error is that of the guided forecast.
        cross_rows: those over another branch's features, by (branch, other).
    """
    residual, grams = _residual(kernel, rows, branch_rows, cross_rows)
    squares = np.einsum("ij,pjk,ik->pi", residual, grams, residual)
    return np.sqrt(np.maximum(squares, 0.0) / np.einsum("pii->pi", kernel.grams))


def final_errors(
    kernel: Kernel, rows: Rows, branch_rows: BranchRows | None = None, cross_rows: CrossRows | None = None
) -> Float64[np.ndarray, " P"]:
    r"""Expected root mean square error of the final sample, one a prompt, in units of the sample.

    $\sqrt{|e_T|^2 + \sum_s r_s |e_s|^2}$. $e_s$, with square $t_s^T (I - W) G (I - W)^T t_s$, is the error of the
    sample at the computed step s as it would reach the end ($t_s$: the kernel's final weights up to s), if the computed
    features were those of the full run; r is the network's answer to it, :meth:`Kernel.response_to`. With rows of the
    branches' own, features are those of all branches, and the errors those of their combination; a step counts as
    computed where any branch computes.
    """
    residual, grams = _residual(kernel, rows, branch_rows, cross_rows)
    steps = rows.shape[0]
    computed = [*np.flatnonzero(np.diag(rows) == 1.0).tolist(), steps]
    ends = computed[1:]
    through = np.tril(np.ones((steps + 1, steps)), -1)[ends] * kernel.final_weights @ residual
    squares = np.maximum(np.einsum("si,pij,sj->ps", through, grams, through), 0.0)
    answers = [kernel.response_to(step, until) for step, until in itertools.pairwise(ends)]
    return np.sqrt(squares @ np.array([*answers, 1.0]))


def _residual(
    kernel: Kernel, rows: np.ndarray, branch_rows: BranchRows | None, cross_rows: CrossRows | None
) -> tuple[np.ndarray, ...]:
    """What rows miss, as combinations of features, and the moments of these: the branches', or the guided outputs'."""
    if kernel.branches is None or not branch_rows:
        return np.eye(rows.shape[0]) - rows, kernel.grams
    every = {name: branch_rows.get(name, rows) for name in kernel.branches.names}
    return kernel.branches.guided - kernel.branches.forecast(every, cross_rows), kernel.branches.grams
