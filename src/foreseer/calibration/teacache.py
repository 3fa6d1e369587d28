"""Fitting TeaCache's polynomial to a pipeline, as its paper does for each model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from foreseer.attach.accelerate import accelerate
from foreseer.calibration.calibrate import CalibrationError, check_ready
from foreseer.checks import check_count
from foreseer.errors import FailedOpenError, ForeseerWarning
from foreseer.forecast import Reuse
from foreseer.gate import Gate, GatedPolicy, GateRun, Setting, SignalError, TeaCache
from foreseer.gate.relative_l1 import relative_change
from foreseer.pipelines import call_arguments, run


@dataclass(frozen=True)
class TeaCacheFit:
    """How the network's output moves with the modulated input.

    Attributes:
        coefficients: of the polynomial, highest power first.
        changes: shape (N, 2): relative L1 changes from one step to the next, of the modulated input and of the output.
        residual: the root mean square of what the polynomial misses.
    """

    coefficients: tuple[float, ...]
    changes: Float64[np.ndarray, "N 2"]
    residual: float

    def gate(self, threshold: float) -> TeaCache:
        """The gate with these coefficients."""
        return TeaCache(threshold, self.coefficients)


def fit_teacache(
    pipe: Any,
    prompts: Sequence[str],
    *,
    num_inference_steps: int = 50,
    seed: int = 0,
    degree: int = 4,
    **options: Any,
) -> TeaCacheFit:
    """Run ``pipe`` on each prompt with every step computed, and fit the polynomial by least squares.

    Args:
        pipe: a diffusers pipeline, not attached.
        prompts: a few; each gives a pair of changes a step, for each branch of guidance.
        num_inference_steps: of the runs.
        seed: of the first prompt's initial noise; the next has the next.
        degree: of the polynomial; the paper's is 4.
        options: keyword arguments of the pipeline's call.

    Raises:
        CalibrationError: there is no prompt, the first block cannot be looked at, or there are too few pairs.
    """
    check_ready(pipe, prompts)
    check_count("degree", degree, CalibrationError, least=1)
    given = {"output_type": "latent", **options, "num_inference_steps": num_inference_steps}
    watching = _Watching()
    policy = GatedPolicy(watching, Reuse(), decided_by="each")
    try:
        with warnings.catch_warnings(), accelerate(pipe, policy, strict=True):
            warnings.simplefilter("ignore", ForeseerWarning)  # that no step was saved
            for index, prompt in enumerate(prompts):
                run(pipe, call_arguments(pipe, prompt, given), seed + index)
    except (FailedOpenError, SignalError) as error:
        raise CalibrationError(f"TeaCache's polynomial cannot be fitted: {error}") from error
    changes = np.asarray(watching.changes, dtype=np.float64).reshape(-1, 2)
    if len(changes) <= degree:
        raise CalibrationError(
            f"{len(changes)} pairs of changes do not tell a polynomial of degree {degree}: run more."
        )
    coefficients = np.polyfit(changes[:, 0], changes[:, 1], degree)
    missed = changes[:, 1] - np.polyval(coefficients, changes[:, 0])
    return TeaCacheFit(tuple(map(float, coefficients)), changes, float(np.sqrt(np.mean(missed**2))))


@dataclass(frozen=True)
class _Watching(Gate):
    """Computes every step, and takes note of changes."""

    signal: ClassVar[str | None] = TeaCache.signal
    changes: list[tuple[float, float]] = field(default_factory=list)

    def begin(self, setting: Setting) -> GateRun:
        """Nothing seen yet."""
        return _Watch(self.changes)


class _Watch(GateRun):
    def __init__(self, changes: list[tuple[float, float]]) -> None:
        self._changes = changes
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def computes(self, step: int, left: int | None, signal: Sequence[Tensor]) -> bool:
        """Yes."""
        self._inputs = [*self._inputs[-1:], signal[0]]
        return True

    def computed(self, step: int, feature: Sequence[Tensor], forecast: Callable[[], list[Tensor] | None]) -> None:
        """Compare input and output with those of the step before."""
        self._outputs = [*self._outputs[-1:], torch.cat([one.reshape(-1) for one in feature])]
        if len(self._inputs) == len(self._outputs) == 2:
            moved = [relative_change(now, before) for before, now in (self._inputs, self._outputs)]
            self._changes.append((moved[0], moved[1]))
