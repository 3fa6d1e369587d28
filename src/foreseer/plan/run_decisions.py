"""Which steps of a run compute: decisions of one run, of its branches, and those of a plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from foreseer.grid import Grid
from foreseer.plan.compiled import CompiledRows

if TYPE_CHECKING:
    from foreseer.plan.policy import Policy

Signal = Callable[[], Sequence[Any]]
Preview = Callable[[], list[Any] | None]


def no_signal() -> Sequence[Any]:
    """Signal of a branch that measures nothing inside the network."""
    return ()


class BranchDecisions(ABC):
    """Which steps of one branch compute, and the rows of the others.

    Steps are counted from the branch's first step.

    Attributes:
        rows: the rows in use.
    """

    rows: CompiledRows

    @abstractmethod
    def forecasts(self, step: int, signal: Signal) -> bool:
        """Whether ``step`` is forecast. ``signal`` measures inside the network, where the decision needs it."""

    def why_not(self) -> str | None:
        """Reason why the forecast decided on last must not be made, else ``None``."""
        return None

    def computed(self, step: int, feature: Sequence[Any], preview: Preview) -> None:
        """Note the feature computed at ``step``; ``preview`` makes the forecast that would have replaced it."""
        return


class RunDecisions(ABC):
    """One run under a policy."""

    @abstractmethod
    def branch(self, name: str, first_step: int, spent: int) -> BranchDecisions:
        """Decisions for the branch ``name``, which begins at ``first_step`` of the run.

        Args:
            name: the branch's name.
            first_step: the run's step at which the branch begins.
            spent: steps that the run has already computed; budgeted rules subtract them.

        Raises:
            ForeseerError: the policy cannot serve the rest of the run.
        """


class Scheduled(RunDecisions):
    """Decisions known before the run."""

    def __init__(self, policy: Policy, grid: Grid) -> None:
        self._policy = policy
        self._grid = grid

    def branch(self, name: str, first_step: int, spent: int) -> BranchDecisions:
        """Follow the plan that the policy compiles for the rest of the run."""
        return PlanDecisions(self._policy.compile(self._grid, first_step, spent).of_branch(name))


class PlanDecisions(BranchDecisions):
    """Follow the rows of a plan to the end."""

    def __init__(self, rows: CompiledRows) -> None:
        self.rows = rows
        self._forecast = rows.sparse_rows

    def forecasts(self, step: int, signal: Signal) -> bool:
        """Whether the plan forecasts ``step``."""
        return step in self._forecast
