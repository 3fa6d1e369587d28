"""Base classes of gates: schedules decided while sampling."""

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
    """A gate's signal inside the network is unavailable at this call, which must be computed."""


@dataclass(frozen=True)
class Setting:
    """Run and branch that a gate decides for, as they are when the branch begins.

    Attributes:
        grid: the noise levels of the part of the run that the branch sees; steps are counted from its beginning.
        forecaster: forecaster whose rows make the forecasts.
        max_nfe: how many steps may compute at most; ``None`` for any number.
        branch: the branch's name.
        rows_after: maps computed steps to the rows that the branch then follows; cached.
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
        """Whether ``step`` should compute; called once per step, in order. Step 0 always computes.

        If one branch decides for all, the gates of the others are called only after that branch has ended.

        Args:
            step: counted from the branch's beginning.
            left: forward passes that the maximum still allows, including this step; ``None`` for no limit. At 0 the
                step is forecast in any case.
            signal: the gate's ``signal`` at this call; empty for a gate without a signal.
        """

    def computed(self, step: int, feature: Sequence[Tensor], forecast: Callable[[], list[Tensor] | None]) -> None:
        """Record the feature that the network computed at ``step``.

        Args:
            step: counted from the branch's beginning.
            feature: its tensors.
            forecast: returns the forecast that would have replaced the feature; ``None`` if no forecast is possible
                (step 0, a feature that is not finite) or another branch decides.
        """
        return

    def planned_step(self, left: int | None) -> int | None:
        """Return the next step that will compute; ``None`` for none, or for a gate that does not plan ahead.

        Rows with error feedback correct the sample by there, and not by the end of the run.

        Args:
            left: forward passes that the maximum still allows; ``None`` for no limit.
        """
        return None


class Gate(ABC):
    """Rule that decides while sampling which steps compute; subclasses are frozen dataclasses of options.

    Attributes:
        signal: quantity inside the network that the gate reads at every step before it decides, by its name in
            ``foreseer.attach.signals.base.SIGNALS``; ``None`` for a gate that uses computed features only.
    """

    signal: ClassVar[str | None] = None

    @abstractmethod
    def begin(self, setting: Setting) -> GateRun:
        """The gate's state for one branch of one run.

        Raises:
            ForeseerError: the gate cannot serve this run; it then computes every step.
        """
