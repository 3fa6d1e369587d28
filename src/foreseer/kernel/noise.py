"""Noise of the network's outputs, added to a kernel's moments."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foreseer.checks import check_number
from foreseer.errors import KernelError

if TYPE_CHECKING:
    from foreseer.kernel.kernel import Kernel


def with_noise(kernel: Kernel, noise: float) -> Kernel:
    """Count noise that is independent from step to step; see :meth:`foreseer.kernel.Kernel.with_noise`."""
    check_number("noise", noise, KernelError)
    square = noise**2
    branches, parts = kernel.branches, kernel.parts
    if branches is None:
        grams = _raised(kernel.grams, square)
    else:
        squares = square * np.einsum("pii->pi", branches.grams)
        added = np.einsum("ti,pi->pt", branches.guided**2, squares)
        grams = kernel.grams + added[:, :, None] * np.eye(len(kernel.grid))
        branches = replace(branches, grams=_raised(branches.grams, square))
    if parts is not None:
        parts = replace(parts, grams=_raised(parts.grams, square))
    counted = math.hypot(noise, float(kernel.provenance.get("noise", 0.0)))
    return replace(
        kernel, grams=grams, branches=branches, parts=parts, provenance={**kernel.provenance, "noise": repr(counted)}
    )


def _raised(grams: np.ndarray, square: float) -> np.ndarray:
    return grams * (1.0 + square * np.eye(grams.shape[-1]))
