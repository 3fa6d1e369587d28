"""Arithmetic of the forecast-error gate: difficulty of an image, and the steps left to compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from foreseer.forecast.base import Forecaster
from foreseer.kernel import Kernel
from foreseer.kernel.expected import final_errors
from foreseer.schedule.continued import Continued, Kept
from foreseer.schedule.search import FINE

FARTHEST = math.log(8.0)  # bound on one log ratio: a comparison counts as at most 8 times harder or easier
PRIOR = 1.0  # weight of the prior (a typical image), in comparisons
TINY = float(np.finfo(np.float64).tiny)

Ratios = Float64[np.ndarray, " B"]


@dataclass(frozen=True)
class Simulation:
    """Result of the gate on the kernel's own prompts, with features taken from the full run.

    Attributes:
        nfe: shape (P,), computed steps per prompt.
        errors: shape (P,), expected error of each prompt's final sample, in units of the prompts' mean size.
    """

    nfe: Int64[np.ndarray, " P"]
    errors: Float64[np.ndarray, " P"]


class Replanner:
    """Search and error estimate that all runs on one grid share.

    Args:
        kernel: kernel on that grid.
        forecaster: forecaster whose rows are used.
        trust: exponent of the difficulty.
    """

    def __init__(self, kernel: Kernel, forecaster: Forecaster, trust: float) -> None:
        assert kernel.final_squares is not None
        self.kernel = kernel
        self.search = Continued(kernel, forecaster)
        self.scale = math.sqrt(float(np.mean(kernel.final_squares)))
        self._forecaster = forecaster
        self._trust = trust

    def difficulty(self, told: Sequence[Ratios]) -> float:
        """Return the difficulty of the hardest image from the log ratios so far; 1 without any."""
        if not told:
            return 1.0
        total = np.sum(np.clip(np.stack(told), -FARTHEST, FARTHEST), axis=0)
        return math.exp(self._trust * float(total.max()) / (len(told) + PRIOR))

    def steps_after(
        self,
        computed: tuple[int, ...],
        difficulty: float,
        max_error: float,
        left: int | None = None,
        *,
        guess: int | None = None,
        kept: Kept | None = None,
    ) -> tuple[int, ...]:
        """Return the planned set of computed steps, which begins with ``computed``.

        Args:
            computed: the computed steps, ascending from 0.
            difficulty: difficulty of the image.
            max_error: maximum expected relative error of the final sample.
            left: forward passes that the maximum still allows; ``None`` for no limit.
            guess: number of steps of the previous plan.
            kept: sets of steps that the run found before; extended.
        """
        most = self.search.total if left is None else len(computed) + left
        allowed = max_error * self.scale / difficulty
        guess = guess or max(2, min(self.search.total, FINE) // 6)
        return self.search.fewest_within(computed, allowed, most, guess, kept)

    def simulate(self, max_error: float, prompts: Sequence[int] | None = None) -> Simulation:
        """Run the gate on the kernel's own prompts, or on some of them by index."""
        found = [self._run(prompt, max_error) for prompt in (prompts or range(self.kernel.prompts))]
        return Simulation(np.array([len(steps) for steps, _ in found]), np.array([error for _, error in found]))

    def _run(self, prompt: int, max_error: float) -> tuple[tuple[int, ...], float]:
        grid, gram = self.kernel.grid, self.kernel.grams[prompt]
        told: list[Ratios] = []
        kept: Kept = {}
        steps = self.steps_after((0,), 1.0, max_error, kept=kept)
        count = 1
        while count < len(steps):
            computed, step = steps[:count], steps[count]
            miss = missing(self._forecaster.row(computed, step, grid), computed, step, len(grid))
            told.append(log_ratios(np.atleast_1d(miss @ gram @ miss), expected_log(self.kernel.grams, miss)))
            count += 1
            steps = self.steps_after(steps[:count], self.difficulty(told), max_error, guess=len(steps), kept=kept)
        rows, of_branches = self._forecaster.rows(steps, grid), self._forecaster.branch_rows(steps, grid)
        return steps, float(final_errors(self.kernel.subset([prompt]), rows, of_branches)[0]) / self.scale


def missing(row: np.ndarray, computed: Sequence[int], step: int, total: int) -> Float64[np.ndarray, " T"]:
    """The feature of ``step`` less its forecast, as a combination of all features."""
    combination = np.zeros(total)
    combination[list(computed)] = -row
    combination[step] = 1.0
    return combination


def expected_log(grams: Float64[np.ndarray, "P T T"], miss: Float64[np.ndarray, " T"]) -> float:
    """Mean over prompts of the logarithm of the squared error."""
    return float(np.log(np.maximum(np.einsum("i,pij,j->p", miss, grams, miss), TINY)).mean())


def log_ratios(squares: Float64[np.ndarray, " B"], expected: float) -> Ratios:
    """Logarithm of each image's error over the typical one."""
    return (np.log(np.maximum(squares, TINY)) - expected) / 2
