"""What every matrix of second moments is: finite, symmetric, no square negative, no moment beyond its squares'."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

BLOCK = 2**13  # numbers that are compared at once: the check takes no memory to speak of
ROUNDING = 1e-9  # between a moment and its mirror image
LARGEST = 1e100  # products of what is no larger are finite
BEYOND = 1e-6  # Cauchy and Schwarz, for moments added up in float32


def fault_of(grams: Float64[np.ndarray, "P N N"]) -> str | None:
    r"""Why ``grams`` are no second moments; ``None`` where they are.

    Checked are $G_{ij} = G_{ji}$, $G_{ii} \ge 0$ and $G_{ij}^2 \le G_{ii} G_{jj}$, all to rounding.
    """
    prompts, steps, _ = grams.shape
    most = max(float(grams.max()), -float(grams.min()))
    if not np.isfinite(most):
        return "A second moment is not finite: a recorded feature held NaN or infinity."
    if most > LARGEST:
        return f"A second moment is {most:g}; expected at most {LARGEST:g}."
    squares = np.diagonal(grams, axis1=1, axis2=2)
    if float(squares.min()) < 0:
        return f"A mean square is negative: {float(squares.min()):g}."
    least = 1e-12 * most
    several, some = max(1, BLOCK // steps**2), max(1, BLOCK // steps)
    for first in range(0, prompts, several):
        part = grams[first : first + several]
        lengths = np.sqrt(squares[first : first + several])
        for row in range(0, steps, some):
            rows, mirrored = part[:, row : row + some], part[:, :, row : row + some].transpose(0, 2, 1)
            if not np.all(np.abs(rows - mirrored) <= least + ROUNDING * np.abs(mirrored)):
                return "A Gram matrix is not symmetric."
            bound = lengths[:, row : row + some, None] * lengths[:, None]
            if not np.all(np.abs(rows) <= least + (1 + BEYOND) * bound):
                return "A second moment is larger than the mean squares of its features allow."
    return None
