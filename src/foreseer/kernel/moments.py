"""Validity of second moments: finite, symmetric, nonnegative diagonal, Cauchy-Schwarz."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

BLOCK = 2**13  # numbers compared at a time, to bound the memory that the check needs
ROUNDING = 1e-9  # relative tolerance of symmetry
LARGEST = 1e100  # products of smaller numbers are finite
BEYOND = 1e-6  # relative tolerance of Cauchy-Schwarz, for moments accumulated in float32


def problem_of(grams: Float64[np.ndarray, "P N N"]) -> str | None:
    r"""Return why ``grams`` are not second moments, or ``None`` if they are.

    Checks $G_{ij} = G_{ji}$, $G_{ii} \ge 0$ and $G_{ij}^2 \le G_{ii} G_{jj}$, all to rounding.
    """
    prompts, steps, _ = grams.shape
    most = max(float(grams.max()), -float(grams.min()))
    if not np.isfinite(most):
        return "A second moment is not finite: a recorded feature contained NaN or infinity."
    if most > LARGEST:
        return f"A second moment is {most:g}; expected at most {LARGEST:g}."
    squares = np.diagonal(grams, axis1=1, axis2=2)
    if float(squares.min()) < 0:
        return f"A mean square is negative: {float(squares.min()):g}."
    least = 1e-12 * most
    prompt_block, row_block = max(1, BLOCK // steps**2), max(1, BLOCK // steps)
    for first in range(0, prompts, prompt_block):
        part = grams[first : first + prompt_block]
        lengths = np.sqrt(squares[first : first + prompt_block])
        for row in range(0, steps, row_block):
            rows, mirrored = part[:, row : row + row_block], part[:, :, row : row + row_block].transpose(0, 2, 1)
            if not np.all(np.abs(rows - mirrored) <= least + ROUNDING * np.abs(mirrored)):
                return "A Gram matrix is not symmetric."
            bound = lengths[:, row : row + row_block, None] * lengths[:, None]
            if not np.all(np.abs(rows) <= least + (1 + BEYOND) * bound):
                return "A second moment violates Cauchy-Schwarz: it exceeds the mean squares of its features."
    return None
