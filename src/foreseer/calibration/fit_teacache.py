"""Fitting TeaCache's polynomial to a pipeline, as in the paper."""

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
from foreseer.calibration.job_checks import check_ready
from foreseer.checks import check_count
from foreseer.errors import CalibrationError, FailedOpenError, ForeseerWarning
from foreseer.forecast import Reuse
from foreseer.gate import Gate, GatedPolicy, GateRun, Setting, SignalError, TeaCache
from foreseer.gate.relative_l1 import relative_change
from foreseer.pipelines import call_arguments, run


@dataclass(frozen=True)
class TeaCacheFit:
    """Polynomial fit of the output's change against the modulated input's change.

    Attributes:
        coefficients: coefficients of the polynomial, highest power first.
        changes: relative L1 changes per step of the modulated input and of the output, shape (N, 2).
        residual: root mean square of the fit's residuals.
    """

    coefficients: tuple[float, ...]
    changes: Float64[np.ndarray, "N 2"]
    residual: float

    def gate(self, threshold: float) -> TeaCache:
        """Return the gate with these coefficients."""
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
        prompts: a few; each gives one pair of changes per step and branch of guidance.
        num_inference_steps: steps per run.
        seed: seed of the first prompt's initial noise; each further prompt uses the next seed.
        degree: degree of the polynomial; 4 in the paper.
        options: keyword arguments of the pipeline's call.

    Raises:
        CalibrationError: there is no prompt, the first block cannot be observed, or there are too few pairs.
    """
    prompts, seed, _ = check_ready(pipe, prompts, seed)
    check_count("degree", degree, CalibrationError, least=1)
    call = {"output_type": "latent", **options, "num_inference_steps": num_inference_steps}
    recorder = _ChangeRecorder()
    policy = GatedPolicy(recorder, Reuse(), decided_by="each")
    try:
        with warnings.catch_warnings(), accelerate(pipe, policy, strict=True):
            warnings.simplefilter("ignore", ForeseerWarning)  # no step is skipped, on purpose
            for index, prompt in enumerate(prompts):
                run(pipe, call_arguments(pipe, prompt, call), seed + index)
    except (FailedOpenError, SignalError) as error:
        raise CalibrationError(f"TeaCache's polynomial cannot be fitted: {error}") from error
    changes = np.asarray(recorder.changes, dtype=np.float64).reshape(-1, 2)
    if len(changes) <= degree:
        raise CalibrationError(
            f"{len(changes)} pairs of changes do not determine a polynomial of degree {degree}: give more prompts or "
            "steps."
        )
    coefficients = np.polyfit(changes[:, 0], changes[:, 1], degree)
    residuals = changes[:, 1] - np.polyval(coefficients, changes[:, 0])
    return TeaCacheFit(tuple(map(float, coefficients)), changes, float(np.sqrt(np.mean(residuals**2))))


@dataclass(frozen=True)
class _ChangeRecorder(Gate):
    """Gate that computes every step and records changes."""

    signal: ClassVar[str | None] = TeaCache.signal
    changes: list[tuple[float, float]] = field(default_factory=list)

    def begin(self, setting: Setting) -> GateRun:
        """Start recording a run."""
        return _ChangeRun(self.changes)


class _ChangeRun(GateRun):
    def __init__(self, changes: list[tuple[float, float]]) -> None:
        self._changes = changes
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def computes(self, step: int, left: int | None, signal: Sequence[Tensor]) -> bool:
        """Return True, after storing the modulated input."""
        self._inputs = [*self._inputs[-1:], signal[0]]
        return True

    def computed(self, step: int, feature: Sequence[Tensor], forecast: Callable[[], list[Tensor] | None]) -> None:
        """Record the changes of input and output since the previous step."""
        self._outputs = [*self._outputs[-1:], torch.cat([tensor.reshape(-1) for tensor in feature])]
        if len(self._inputs) == len(self._outputs) == 2:
            moved = [relative_change(now, before) for before, now in (self._inputs, self._outputs)]
            self._changes.append((moved[0], moved[1]))
