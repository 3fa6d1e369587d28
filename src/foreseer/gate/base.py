"""What a gate is: a schedule decided while sampling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from foreseer.errors import ForeseerError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
from foreseer.plan import CompiledRows


class GateError(ForeseerError, ValueError):
    """A gate was given an option, or a run, that it cannot serve."""


class SignalError(RuntimeError):
    """What a gate looks at inside the network cannot be had at this call; it must be computed."""


@dataclass(frozen=True)
class Setting:
    """What a gate knows when a branch begins.

    Attributes:
        grid: the noise levels of the part of the run that the branch sees; steps are counted from its beginning.
        forecaster: whose rows make the forecasts.
        max_nfe: how many steps may compute at most; ``None`` for any number.
        branch: the branch's name.
        rows_after: from computed steps to the rows that the branch then follows; cached.
    """

    grid: Grid
    forecaster: Forecaster
    max_nfe: int | None
    branch: str
    rows_after: Callable[[tuple[int, ...]], CompiledRows]


class GateRun(ABC):
    """One gate in one branch of one run: all of its state."""

    @abstractmethod
    def computes(self, step: int, left: int | None, signal: Sequence[Tensor]) -> bool:
        """Whether ``step`` should compute. Asked once a step, in order; step 0 computes whatever the answer.

        Where one branch decides for all, the gates of the others are not asked, unless that branch ends.

        Args:
            step: counted from the branch's beginning.
            left: evaluations that the maximum still allows, this step's included; ``None`` for any number. At 0 the
                step is forecast whatever the answer.
            signal: what the gate's ``signal`` names, taken at this call; empty for a gate that names none.
        """

    def computed(self, step: int, feature: Sequence[Tensor], forecast: Callable[[], list[Tensor] | None]) -> None:
        """Take note of the feature that the network gave at ``step``.

        Args:
            step: counted from the branch's beginning.
            feature: its tensors.
            forecast: makes the forecast that would have been made of it; ``None`` where there is none (step 0, a
                feature that is not finite), or where another branch decides.
        """
        return


class Gate(ABC):
    """Decides while sampling which steps compute. Subclasses are frozen dataclasses of options.

    Attributes:
        signal: what the gate looks at inside the network at every step before it decides, by its name in
            ``foreseer.attach.probe.PROBES``; ``None`` for a gate that looks at computed features only.
    """

    signal: ClassVar[str | None] = None

    @abstractmethod
    def begin(self, setting: Setting) -> GateRun:
        """The gate's state for one branch of one run.

        Raises:
            ForeseerError: the gate cannot serve this run; it then computes every step.
        """
