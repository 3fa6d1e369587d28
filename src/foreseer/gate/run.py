"""Runs of any policy: by a plan that stands beforehand, or by a gate's decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from torch import Tensor

from foreseer.gate.base import GateRun, Setting, SignalError
from foreseer.gate.policy import AnyPolicy, GatedPolicy
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy
from foreseer.runtime import BranchRun, Keep

Signal = Callable[[], Sequence[Tensor]]


def no_signal() -> Sequence[Tensor]:
    """What a gate hears that looks at nothing inside the network."""
    return ()


class PolicyRun:
    """One run of one denoiser under a policy: gives its branches.

    Args:
        policy: what decides.
        grid: the noise levels of the whole run.
        keep: where features are kept.
    """

    def __init__(self, policy: AnyPolicy, grid: Grid, keep: Keep = "device") -> None:
        self._policy = policy
        self._grid = grid
        self._keep: Keep = keep
        self._branches: WeakValueDictionary[str, BranchRun] = WeakValueDictionary()
        self._decisions = Decisions(policy) if isinstance(policy, GatedPolicy) else None

    def branch(self, name: str, step: int, signature: object, spent: int = 0) -> BranchRun | GatedBranch:
        """The branch ``name``, beginning at ``step`` of a run that has computed ``spent`` steps before.

        Raises:
            ForeseerError: the policy cannot serve the rest of the run.
        """
        if isinstance(self._policy, Policy):
            plan = self._policy.compile(self._grid, step, spent).of_branch(name)
            run = self._branches[name] = BranchRun(plan, step, signature, self._keep, self._branches)
            return run
        assert self._decisions is not None
        self._decisions.begin(step, spent)
        return GatedBranch(self._decisions, name, self._grid.tail(step), step, signature, keep=self._keep)


class Decisions:
    """What was decided at each step of one run, and what it cost: all branches share it."""

    def __init__(self, policy: GatedPolicy) -> None:
        self.policy = policy
        self.spent: set[int] = set()
        self._elsewhere = 0
        self._made: dict[int, bool] = {}
        self._leader = ""

    def begin(self, step: int, spent: int) -> None:
        """A branch begins at ``step`` of a run that computed ``spent`` steps before, other denoisers' among them."""
        self._elsewhere = max(self._elsewhere, spent - sum(one < step for one in self.spent))

    def leads(self, name: str) -> bool:
        """Whether ``name`` decides, as far as is known."""
        return self.policy.deciding == "each" or name == self._leader

    def left(self, step: int) -> int | None:
        """Evaluations that the maximum still allows at ``step``."""
        most = self.policy.max_nfe
        return None if most is None else max(0, most - self._elsewhere - len(self.spent - {step}))

    def at(self, step: int, name: str, decide: Callable[[int | None], bool]) -> bool:
        """Whether ``step`` computes: decided by each branch, or by the one that comes to the step first."""
        left = self.left(step)
        if self.policy.deciding == "each":
            return decide(left) and left != 0
        if step not in self._made:
            self._leader = name
            self._made[step] = decide(left) and left != 0
        return self._made[step]


class GatedBranch:
    """One branch whose steps are decided while sampling; see :class:`foreseer.runtime.BranchRun` for the methods.

    Attributes:
        plan: what came out so far: the steps computed until now, and the rows of all others.
    """

    def __init__(
        self, decisions: Decisions, name: str, grid: Grid, first_step: int, signature: object, *, keep: Keep
    ) -> None:
        self._decisions = decisions
        self._name = name
        self._grid = grid
        self._first_step = first_step
        self._decided: tuple[int, bool] = (first_step - 1, True)
        self._no_signal: str | None = None
        policy = decisions.policy
        setting = Setting(grid, policy.forecaster, policy.max_nfe, name, self._plan_after)
        self._gate: GateRun = policy.gate.begin(setting)
        self._run = BranchRun(self._plan_after((0,)), first_step, signature, keep)

    @property
    def plan(self) -> Plan:
        """The steps computed so far, and the rows of the others."""
        return self._run.plan

    @property
    def last_step(self) -> int:
        """The step of the last call."""
        return self._run.last_step

    def continues(self, step: int, signature: object) -> bool:
        """Whether a call at ``step`` is the next one of this branch, with the same shapes."""
        return self._run.continues(step, signature)

    def forecasts(self, step: int, signal: Signal = no_signal) -> bool:
        """Whether ``step`` is to be forecast; decided when first asked.

        Args:
            step: the run's step.
            signal: takes what the gate looks at inside the network, where it does; may raise SignalError.
        """
        if self._decided[0] != step:
            self._no_signal = None
            computes = self._decisions.at(step, self._name, lambda left: self._decide(step, left, signal))
            self._decided = step, computes or step == self._first_step
        return not self._decided[1]

    def _decide(self, step: int, left: int | None, signal: Signal) -> bool:
        try:
            return self._gate.computes(step - self._first_step, left, signal())
        except SignalError as error:
            self._no_signal = str(error)
            return False  # so that the record tells it as a step computed against the plan

    def why_not(self, step: int) -> str | None:
        """Why the forecast decided on must not be made, or ``None``."""
        return self._no_signal or self._run.why_not(step)

    def computed(self, step: int, tensors: Sequence[Tensor], names: Sequence[str] = ()) -> None:
        """Take note of what the network gave at ``step``, and make the rows of the steps after it."""
        local = step - self._first_step
        leads = self._decisions.leads(self._name)
        self._gate.computed(local, tensors, lambda: self._forecast_of(step) if leads else None)
        self._decisions.spent.add(step)
        if local:
            self._run.follow(self._plan_after((*self.plan.computed_steps, local)))
        self._run.computed(step, tensors, names)

    def forecast(self, step: int) -> Sequence[Tensor]:
        """The forecast feature of ``step``."""
        return self._run.forecast(step)

    def _plan_after(self, computed: tuple[int, ...]) -> Plan:
        return self._decisions.policy.plan_after(computed, self._grid).of_branch(self._name)

    def _forecast_of(self, step: int) -> list[Tensor] | None:
        """The forecast that would have been made of a step that was computed."""
        if not self._run.forecasts(step) or self._run.why_not(step) is not None:
            return None
        return self._run.preview(step)
