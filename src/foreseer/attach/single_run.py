"""Runs without pipeline or scheduler: forecast a network call, or ask the caller to compute it.

It is part of this package because it uses gate decisions and run records, and :func:`foreseer.wrap` is built on it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreseer.attach.network.containers import UnknownContainerError, flatten, rebuild, strip
from foreseer.attach.run.guard import GRADIENTS, TRANSFORMED, CallInputs, is_transformed
from foreseer.attach.run_record import FailOpen, RunRecord, describe_parts
from foreseer.checks import check_flags, check_kind
from foreseer.errors import AttachError, ForeseerError, ForeseerWarning
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy
from foreseer.plan.run_decisions import Signal, no_signal
from foreseer.runtime import KEEPS, BranchRun, Keep, PolicyRun


@dataclass
class _Branch:
    """State of one branch of a run: its plan in progress, and the container of its outputs."""

    applied: BranchRun
    layout: tuple[Any, ...]
    template: Any = None
    needs_grad: bool = False
    inputs: tuple[Tensor, ...] = ()  # of its first call, where rows weigh the first sample
    seconds: float = 0.0  # host time of the last check whether a forecast may be made


class Run:
    """One run of one network under a policy. One thread at a time may use it.

    Args:
        policy: a policy, compiled for ``grid``, or a plan made for it.
        grid: the run's noise levels.
        keep: ``"device"`` or ``"host"``, where features are kept.
        signals: names of the signals (``Gate.signal``) that the host can pass to :meth:`forecast`.
        warn: whether the first step computed against the plan is reported by a warning; the record has them all.
        parallel: whether other processes hold other parts of the same tensors: then nothing is decided by looking at
            values, so that all decide alike, and gates are refused.

    Raises:
        ForeseerError: the policy cannot be compiled for ``grid``, its site is not the output, or its gate needs a
            signal that the host does not have.

    Attributes:
        grid: the run's noise levels.
        record: what happened so far.

    >>> import torch
    >>> from foreseer import Policy, forecast, schedule
    >>> run = Run(Policy(schedule.Uniform(interval=2), forecast.Reuse()), Grid.uniform(4))
    >>> for step in range(4):
    ...     velocity = run.forecast(step)
    ...     if velocity is None:
    ...         velocity = torch.full((1,), float(step))
    ...         run.computed(step, velocity)
    ...     print(step, float(velocity))
    0 0.0
    1 0.0
    2 2.0
    3 2.0
    """

    def __init__(
        self,
        policy: Policy | Plan,
        grid: Grid,
        *,
        keep: Keep = "device",
        signals: Collection[str] = (),
        warn: bool = True,
        parallel: bool = False,
    ) -> None:
        check_kind("grid", grid, Grid, AttachError)
        check_flags(AttachError, warn=warn, parallel=parallel)
        policy = Policy.from_plan(policy) if isinstance(policy, Plan) else policy
        _check_policy(policy, keep, signals, parallel)
        self.grid = grid
        self.record = RunRecord(steps=len(grid))
        self._warn = warn
        self._parallel = parallel
        self._applied = PolicyRun(policy, grid, keep)
        self._plan = None if policy.decides_while_sampling else policy.compile(grid)
        self._branches: dict[str, _Branch] = {}
        self._last_steps: dict[str, int] = {}
        self._awaited: dict[str, int] = {}

    @property
    def plan(self) -> Plan | None:
        """The plan of the whole run; under a gate, of the branch called first, ``None`` before its first step."""
        return self._plan or next((rows.plan for rows in self.record.plans.values()), None)

    @property
    def finished(self) -> bool:
        """Whether every branch seen so far has passed the last step of the grid."""
        return bool(self._last_steps) and min(self._last_steps.values()) == len(self.grid) - 1

    def forecast(
        self,
        step: int,
        branch: str = "",
        inputs: Sequence[Any] = (),
        signal: Signal = no_signal,
        onto: tuple[Tensor, float] | None = None,
    ) -> Any:
        r"""The forecast of the network's output at ``step``; ``None``: call the network, then :meth:`computed`.

        Args:
            step: index on the grid. Each branch is called once per step, in order; a branch that begins late, leaves
                out a step or changes the shape of its inputs restarts there, on the rest of the grid.
            branch: a name that keeps conditional and unconditional calls apart.
            inputs: what the network is given: their shapes, dtypes and devices must not change within a branch, and
                an input that requires a gradient is never answered with a forecast.
            signal: returns what the policy's gate looks at; called only if the gate decides at this step.
            onto: a tensor $x$ and a factor $c$, if the host needs $x + c \hat F$ of an output that is one tensor.

        Raises:
            AttachError: ``step`` is not on the grid, or does not come after the branch's last step.
        """
        return self.make_forecast(step, branch, onto) if self.can_forecast(step, branch, inputs, signal) else None

    def can_forecast(self, step: int, branch: str = "", inputs: Sequence[Any] = (), signal: Signal = no_signal) -> bool:
        """Decide whether ``step`` is forecast, without taking it: the same call may be repeated.

        Arguments and errors are those of :meth:`forecast`. After it comes :meth:`make_forecast` or :meth:`computed`.
        """
        self._check_order(step, branch)
        self._awaited[branch] = step
        if is_transformed():
            self._branches.pop(branch, None)
            self._note(step, branch, TRANSFORMED)
            return False
        state = self._branch_at(step, branch, inputs)
        if state is not None:
            state.inputs = state.applied.first_inputs(step, inputs)
        if state is None or not state.applied.forecasts(step, signal):
            return False
        began = time.perf_counter()
        reason = state.applied.why_not(step)
        if _asks_for_gradients(inputs) or (state.needs_grad and torch.is_grad_enabled()):
            reason = GRADIENTS
        if reason is not None:
            self._note(step, branch, reason)
        state.seconds = time.perf_counter() - began
        return reason is None

    def make_forecast(self, step: int, branch: str = "", onto: tuple[Tensor, float] | None = None) -> Any:
        """The forecast of ``step``, directly after :meth:`can_forecast` has returned True for it."""
        began = time.perf_counter()
        state = self._branches[branch]
        feature = state.applied.forecast(step)
        output = feature.onto(*onto) if onto is not None else rebuild(state.template, iter(feature))
        self._pass(step, branch)
        seconds = state.seconds + time.perf_counter() - began
        self.record.note_forecast(branch, step, state.applied.rows, step - state.applied.first_step, seconds)
        return output

    def computed(self, step: int, output: Any, branch: str = "", scale: float = 1.0) -> None:
        """Store the network's output at ``step``: a tensor, or a container of tensors.

        Args:
            step: for which :meth:`forecast` returned ``None``.
            output: what the network returned; it is not copied, so copy it if the next call writes into its memory.
            branch: as for :meth:`forecast`.
            scale: forecasts are of ``scale * output``; the product is not formed, the rows' weights are scaled.

        Raises:
            AttachError: :meth:`forecast` did not ask for this step to be computed.
        """
        if self._awaited.get(branch) != step:
            raise AttachError(
                f"computed() received step {step} of branch {branch!r}, but forecast() asked for "
                f"{self._awaited.get(branch, 'no step')}: call forecast() first, and compute where it returns None."
            )
        self._pass(step, branch)
        self.record.note_computed(branch, step, len(self.grid))
        if is_transformed():
            self._branches.pop(branch, None)  # its tensors are wrappers, which must not outlive the transform
        state = self._branches.get(branch)
        if state is None:
            return
        try:
            tensors, state.template = flatten(output), strip(output)
        except UnknownContainerError as error:
            del self._branches[branch]
            self._note(step, branch, str(error))
            return
        if not state.applied.accepts(tensors):  # another shape: earlier features cannot be used
            template = state.template
            try:
                state = self._begin(step, branch, state.layout)
            except ForeseerError as error:
                del self._branches[branch]
                self._note(step, branch, str(error))
                return
            state.template = template
        state.needs_grad = any(tensor.requires_grad for tensor in tensors)
        if not state.applied.layout:
            self.record.features[branch] = describe_parts(tensors)
        state.applied.computed(step, [tensor.detach() for tensor in tensors], scale=scale, inputs=state.inputs)
        state.inputs = ()
        if state.applied.note is not None:
            self.record.notes[branch] = state.applied.note
        if self._parallel:
            state.applied.store.trust()
        self.record.plans[branch] = state.applied.rows

    def free(self) -> None:
        """Free all features; a later call restarts its branch. The record stays."""
        self._branches.clear()

    def _branch_at(self, step: int, branch: str, inputs: Sequence[Any]) -> _Branch | None:
        """The branch that is ready for ``step``, restarted if need be; ``None`` if the policy cannot serve it."""
        layout = CallInputs(tuple(inputs), {}).layout
        state = self._branches.get(branch)
        if state is not None and state.applied.last_step == step - 1 and state.layout == layout:
            return state
        try:
            return self._begin(step, branch, layout)
        except ForeseerError as error:
            self._branches.pop(branch, None)
            self._note(step, branch, str(error))
            return None

    def _begin(self, step: int, branch: str, layout: tuple[Any, ...]) -> _Branch:
        """Begin a branch at ``step``; the budget that the run has spent stays spent."""
        spent = sum(computed < step for computed in self.record.computed_steps)
        applied = self._applied.branch(branch, step, spent)
        if step > 0:
            self.record.begun_late.append((step, branch))
        self.record.plans[branch] = applied.rows
        state = self._branches[branch] = _Branch(applied, layout)
        return state

    def _pass(self, step: int, branch: str) -> None:
        """Count ``step`` as done."""
        self._awaited.pop(branch, None)
        self._last_steps[branch] = step

    def _note(self, step: int, branch: str, reason: str) -> None:
        if self._warn and not self.record.failed_open:
            message = f"Step {step} is computed instead of forecast: {reason.rstrip('.')}."
            warnings.warn(f"{message} Said once; record.failed_open lists all.", ForeseerWarning, stacklevel=4)
        failure = FailOpen(step, branch, reason)
        if failure not in self.record.failed_open:  # a call may be repeated after an error
            self.record.failed_open.append(failure)

    def _check_order(self, step: int, branch: str) -> None:
        if not hasattr(step, "__index__"):
            raise AttachError(f"step is {step!r}; expected an integer, the index on the grid.")
        last = self._last_steps.get(branch, -1)
        if not last < step < len(self.grid):
            raise AttachError(
                f"Step {step} came after step {last} on a grid of {len(self.grid)} steps; steps come in order, and "
                "each run takes a new run id or a new fs.wrap."
            )


def _check_policy(policy: Policy, keep: Keep, signals: Collection[str], parallel: bool) -> None:
    if not isinstance(policy, Policy) or keep not in KEEPS:
        raise AttachError(f"Expected a Policy or Plan and keep in {KEEPS}; received {policy!r} and {keep!r}.")
    if policy.site != "output":
        raise AttachError(
            f"Served call by call, a network has one site, its output; this policy's site is {policy.site!r}. "
            "Use a policy with site='output'."
        )
    if parallel and policy.decides_while_sampling:
        raise AttachError(
            "A gate decides by looking at tensors, of which each process holds a part: the processes could decide "
            "differently and wait for each other. Use a schedule."
        )
    if policy.signal is not None and policy.signal not in signals:
        raise AttachError(
            f"This gate measures inside the network ({policy.signal}), which is not visible from a call. Use a "
            "schedule, or a gate on outputs such as forecast-error."
        )


def _asks_for_gradients(inputs: Sequence[Any]) -> bool:
    """Whether any tensor among the inputs requires a gradient."""
    return torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in inputs)
