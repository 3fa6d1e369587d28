"""A gate's decisions during one run: which steps compute, and the rows for the steps computed so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from foreseer.gate.base import Setting, SignalError
from foreseer.grid import Grid
from foreseer.plan import BranchDecisions, CompiledRows, RunDecisions
from foreseer.plan.run_decisions import Preview, Signal

if TYPE_CHECKING:
    from foreseer.gate.gated_policy import GatedPolicy


class GatedRun(RunDecisions):
    """Decisions and remaining budget of one run, shared by its branches.

    Args:
        policy: the gated policy.
        grid: the noise levels of the whole run.

    Attributes:
        next_step: of the run, which the branch that decides plans to compute next; ``None`` if that is unknown.
    """

    def __init__(self, policy: GatedPolicy, grid: Grid) -> None:
        self.policy = policy
        self.grid = grid
        self.spent: set[int] = set()
        self.next_step: int | None = None
        self._spent_elsewhere = 0
        self._decisions: dict[int, bool] = {}
        self._leader = ""

    def branch(self, name: str, first_step: int, spent: int) -> BranchDecisions:
        """The branch ``name``; of ``spent`` steps, those not computed here were computed by other denoisers."""
        computed_here = sum(step < first_step for step in self.spent)
        self._spent_elsewhere = max(self._spent_elsewhere, spent - computed_here)
        return GatedBranchDecisions(self, name, first_step)

    def leads(self, name: str) -> bool:
        """Whether ``name`` decides, as far as the run has shown."""
        return self.policy.decided_by == "each" or name == self._leader

    def remaining_budget(self, step: int) -> int | None:
        """Steps that may still compute from ``step`` on; ``None`` for any number."""
        most = self.policy.max_nfe
        return None if most is None else max(0, most - self._spent_elsewhere - len(self.spent - {step}))

    def decide(self, step: int, name: str, decision: Callable[[int | None], bool]) -> bool:
        """Whether ``step`` computes: decided by each branch, or by the branch that comes to the step first."""
        remaining = self.remaining_budget(step)
        if self.policy.decided_by == "each":
            return decision(remaining) and remaining != 0
        if step not in self._decisions:
            self._leader = name
            self._decisions[step] = decision(remaining) and remaining != 0
        return self._decisions[step]


class GatedBranchDecisions(BranchDecisions):
    """One branch whose steps are decided while sampling.

    Attributes:
        rows: the rows of all steps after those computed so far.
    """

    rows: CompiledRows

    def __init__(self, run: GatedRun, name: str, first_step: int) -> None:
        self._run = run
        self._name = name
        self._first_step = first_step
        self._grid = run.grid.tail(first_step)
        self._computed: tuple[int, ...] = (0,)
        self._no_signal: str | None = None
        policy = run.policy
        setting = Setting(self._grid, policy.forecaster, policy.max_nfe, name, self._rows_after)
        self._gate = policy.gate.begin(setting)
        self.rows = self._rows_after((0,))

    def forecasts(self, step: int, signal: Signal) -> bool:
        """Whether ``step`` is forecast: decided by the gate, or by the branch that leads."""
        self._no_signal = None

        def decision(remaining: int | None) -> bool:
            try:
                return self._gate.computes(step, remaining, signal())
            except SignalError as error:
                self._no_signal = str(error)
                return False  # recorded as a step computed against the plan

        computes = self._run.decide(step + self._first_step, self._name, decision)
        return step > 0 and not computes

    def why_not(self) -> str | None:
        """Reason why the gate had no signal at the last decision, else ``None``."""
        return self._no_signal

    def computed(self, step: int, feature: Sequence[Tensor], preview: Preview) -> None:
        """Show the gate a computed feature, and make the rows of the steps after it."""
        leads = self._run.leads(self._name)
        self._gate.computed(step, feature, lambda: preview() if leads else None)
        self._run.spent.add(step + self._first_step)
        if step:
            self._computed = (*self._computed, step)
        if leads:
            planned = self._gate.planned_step(self._run.remaining_budget(step + self._first_step + 1))
            self._run.next_step = None if planned is None else planned + self._first_step
        ahead = self._run.next_step
        self.rows = self._rows_after(self._computed, None if ahead is None else ahead - self._first_step)

    def _rows_after(self, computed: tuple[int, ...], next_step: int | None = None) -> CompiledRows:
        return self._run.policy.plan_after(computed, self._grid, next_step).of_branch(self._name)
