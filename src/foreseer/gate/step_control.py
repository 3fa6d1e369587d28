"""Gate that needs no kernel: step-size control, as in solvers of differential equations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from foreseer.checks import check_count, check_number
from foreseer.gate.base import Gate, GateError, GateRun, Setting
from foreseer.gate.squared_errors import mean_squares, squared_errors

LEAST, MOST = 0.2, 3.0  # bounds on the factor by which one comparison changes a gap
ROUNDING = 1e-9
SPREAD = 3  # this many last forward passes are spread over the rest of the run


@dataclass(frozen=True)
class StepControl(Gate):
    r"""Gate that sets the gap between computed steps by step-size control.

    The next gap is $h \min(3, \max(0.2, \theta (\text{tol} / \epsilon)^{1/(k+1)}))$, where h is the last gap, in noise
    level. $\epsilon = (h / H) |F - \hat F| / |F|$ is the error that the forecast of the later step would have caused in
    the sample over the gap, H the distance of the whole run, and k the order to which forecasts are exact (Hairer,
    Norsett and Wanner, "Solving Ordinary Differential Equations I", II.4, equation 4.13, the network's output being the
    derivative). A step is never rejected. In a batch the image with the largest error decides.

    Args:
        tolerance: target value of epsilon.
        order: k, at least 1: order + 1 of an interpolating forecaster, 1 for reuse.
        warmup: steps computed at the beginning, at least 2.
        safety: theta, above 0 and at most 1.

    Raises:
        GateError: an option is out of range.
    """

    tolerance: float = 0.01
    order: int = 2
    warmup: int = 3
    safety: float = 0.9

    def __post_init__(self) -> None:
        check_number("tolerance", self.tolerance, GateError)
        check_count("order", self.order, GateError, least=1)
        check_count("warmup", self.warmup, GateError, least=2)
        check_number("safety", self.safety, GateError, most=1.0)
        if not self.tolerance or not self.safety:
            raise GateError(f"tolerance and safety must be above 0; received {self!r}.")

    def begin(self, setting: Setting) -> GateRun:
        """The gate in one branch."""
        return _StepControlRun(self, setting)

    def factor(self, error: float) -> float:
        """Return the factor by which the gap changes after ``error``."""
        if not math.isfinite(error):
            return LEAST
        return min(MOST, max(LEAST, self.safety * (self.tolerance / max(error, 1e-12)) ** (1 / (self.order + 1))))


class _StepControlRun(GateRun):
    def __init__(self, gate: StepControl, setting: Setting) -> None:
        self._gate = gate
        self._levels = np.append(setting.grid.levels, setting.grid.final_level)
        self._whole = float(self._levels[0] - self._levels[-1])
        self._computed: list[int] = []
        self._error = 0.0

    def computes(self, step: int, left: int | None, signal: Sequence[Tensor]) -> bool:
        if len(self._computed) < self._gate.warmup:
            return True
        last, total = self._computed[-1], len(self._levels) - 1
        if left is not None and left <= SPREAD and step < last + (total - last) / (left + 1):
            return False
        gap = (self._levels[self._computed[-2]] - self._levels[last]) * self._gate.factor(self._error)
        # Compute the farthest step within the gap: the step after it lies beyond.
        return bool(self._levels[last] - self._levels[step + 1] > gap * (1 + ROUNDING))

    def computed(self, step: int, feature: Sequence[Tensor], forecast: Callable[[], list[Tensor] | None]) -> None:
        found = forecast()
        if found is not None:
            size = np.maximum(mean_squares(feature), np.finfo(np.float64).tiny)
            gap = float(self._levels[self._computed[-1]] - self._levels[step])
            self._error = gap / self._whole * float(np.sqrt(squared_errors(feature, found) / size).max())
        self._computed.append(step)
