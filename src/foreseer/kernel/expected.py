"""Expected error of a plan's rows, computed from second moments without running the network."""

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
    r"""Return the relative error of each step's forecast.

    $\sqrt{E_{ii} / G_{ii}}$ with $E = (I - W) G (I - W)^T$.

    Args:
        kernel: second moments.
        rows: W, shape (T, T), shared by all branches.
        branch_rows: rows of single branches, by name; if given, the error is that of the guided forecast.
        cross_rows: rows over another branch's features, by (branch, other).

    Returns:
        Shape (P, T), one row per prompt.
    """
    residual, grams = _residual(kernel, rows, branch_rows, cross_rows)
    squares = np.einsum("ij,pjk,ik->pi", residual, grams, residual)
    return np.sqrt(np.maximum(squares, 0.0) / np.einsum("pii->pi", kernel.grams))


def final_errors(
    kernel: Kernel, rows: Rows, branch_rows: BranchRows | None = None, cross_rows: CrossRows | None = None
) -> Float64[np.ndarray, " P"]:
    r"""Return the expected root mean square error of the final sample per prompt, in units of the sample.

    $\sqrt{|e_T|^2 + \sum_s r_s |e_s|^2}$ over computed steps s. The error of the sample at step s, carried to the end
    of the run, has square $|e_s|^2 = t_s^T (I - W) G (I - W)^T t_s$, with $t_s$ the kernel's final weights up to s and
    computed features taken from the full run. $r_s$ is the error that the network adds in response
    (:meth:`Kernel.propagation`). With branch rows the features are those of all branches, the errors are those of the
    guided combination, and a step counts as computed if any branch computes.
    """
    residual, grams = _residual(kernel, rows, branch_rows, cross_rows)
    steps = rows.shape[0]
    computed = [*np.flatnonzero(np.diag(rows) == 1.0).tolist(), steps]
    ends = computed[1:]
    through = np.tril(np.ones((steps + 1, steps)), -1)[ends] * kernel.final_weights @ residual
    squares = np.maximum(np.einsum("psi,si->ps", through @ grams, through), 0.0)
    propagation = [kernel.propagation(step, until) for step, until in itertools.pairwise(ends)]
    return np.sqrt(squares @ np.array([*propagation, 1.0]))


def _residual(
    kernel: Kernel, rows: np.ndarray, branch_rows: BranchRows | None, cross_rows: CrossRows | None
) -> tuple[np.ndarray, ...]:
    """Return the forecast errors as combinations of features, and the moments of these features."""
    if kernel.branches is None or not branch_rows:
        return np.eye(rows.shape[0]) - rows, kernel.grams
    every = {name: branch_rows.get(name, rows) for name in kernel.branches.names}
    return kernel.branches.guided - kernel.branches.forecast(every, cross_rows), kernel.branches.grams
