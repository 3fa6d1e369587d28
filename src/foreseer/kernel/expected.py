"""The expected error of rows, before anything is run."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from foreseer.kernel.kernel import Kernel


def step_errors(kernel: Kernel, rows: Float64[np.ndarray, "T T"]) -> Float64[np.ndarray, "P T"]:
    r"""Relative error of each step's forecast, a row a prompt: $\sqrt{E_{ii} / G_{ii}}$, $E = (I - W) G (I - W)^T$."""
    residual = np.eye(rows.shape[0]) - rows
    squares = np.einsum("ij,pjk,ik->pi", residual, kernel.grams, residual)
    return np.sqrt(np.maximum(squares, 0.0) / np.einsum("pii->pi", kernel.grams))


def final_errors(kernel: Kernel, rows: Float64[np.ndarray, "T T"]) -> Float64[np.ndarray, " P"]:
    r"""Root mean square error of the final sample, one a prompt, if the computed features were those of the full run.

    $\sqrt{\ell^T (I - W) G (I - W)^T \ell}$ with $\ell$ the kernel's final weights, in units of the sample.
    """
    through = kernel.final_weights @ (np.eye(rows.shape[0]) - rows)
    return np.sqrt(np.maximum(np.einsum("i,pij,j->p", through, kernel.grams, through), 0.0))
