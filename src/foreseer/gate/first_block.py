"""The first-block gate: what the first block does now, against what it did at the last computed step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from foreseer.checks import check_number
from foreseer.gate.base import Gate, GateError, GateRun, Setting
from foreseer.gate.relative_l1 import relative_change


@dataclass(frozen=True)
class FirstBlock(Gate):
    r"""Computes a step where $|r_i - r_s|_1 / |r_s|_1$ reaches ``threshold``.

    r is the change that the first block makes (output minus input), s the last computed step. (The first-block cache of
    ParaAttention.)

    Args:
        threshold: ParaAttention's for FLUX is 0.08; at 0 every step computes.

    Raises:
        GateError: the threshold is negative or not finite.
    """

    signal: ClassVar[str | None] = "first_block"
    threshold: float = 0.08

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, GateError)

    def begin(self, setting: Setting) -> GateRun:
        """Nothing to compare with yet."""
        return _FirstBlockRun(self.threshold)


class _FirstBlockRun(GateRun):
    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._now: Tensor | None = None
        self._last: Tensor | None = None

    def computes(self, step: int, left: int | None, signal: Sequence[Tensor]) -> bool:
        """Whether the first block's change has moved too far."""
        self._now = signal[0]
        return self._last is None or not relative_change(self._now, self._last) < self._threshold

    def computed(self, step: int, feature: Sequence[Tensor], forecast: Callable[[], list[Tensor] | None]) -> None:
        """Compare with this step from now on."""
        self._last = self._now
