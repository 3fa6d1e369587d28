"""`wrap`: a policy around a plain function, for a sampling loop of your own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreseer.attach.network.containers import UnknownContainerError, flatten, rebuild, strip
from foreseer.attach.run.guard import GRADIENTS, TRANSFORMED, CallInputs, is_transformed
from foreseer.attach.run_record import FailOpen, RunRecord, describe_parts
from foreseer.checks import check_kind
from foreseer.errors import AttachError, ForeseerError, ForeseerWarning
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy
from foreseer.runtime import KEEPS, BranchRun, Keep, PolicyRun


class WrappedModel:
    """A model function that computes some steps and forecasts the others. One object serves one run.

    Attributes:
        record: what has happened so far.
    """

    def __init__(self, model_fn: Callable[..., Any], policy: Policy, grid: Grid, keep: Keep = "device") -> None:
        self._run = PolicyRun(policy, grid, keep)
        self._plan = None if policy.decides_while_sampling else policy.compile(grid)
        self.record = RunRecord(steps=len(grid))
        self._model_fn = model_fn
        self._grid = grid
        self._branches: dict[str, _Branch] = {}

    @property
    def plan(self) -> Plan | None:
        """The plan of the whole run; under a gate, of the branch called first, ``None`` before its first step."""
        return self._plan or next((rows.plan for rows in self.record.plans.values()), None)

    def __call__(self, step: int, *args: Any, branch: str = "", **kwargs: Any) -> Any:
        """The model's output at ``step``: ``model_fn(*args, **kwargs)``, or its forecast.

        Args:
            step: index on the grid; each branch is called once per step, in order. A branch that begins late, or whose
                tensors change shape, is planned again there, on the rest of the grid.
            args: the model's arguments: (x, t) usually.
            branch: a name that keeps conditional and unconditional calls apart; selects the branch's own rows where
                the plan has them.
            kwargs: passed on to the model.

        Raises:
            AttachError: the step is not on the grid, or not after the branch's last one.
        """
        current = self._branches.get(branch)
        self._check_order(step, current)
        if is_transformed():
            self._branches.pop(branch, None)
            return self._against_the_plan(step, branch, TRANSFORMED, self._model_fn(*args, **kwargs))
        layout = CallInputs(args, kwargs).layout
        if current is None or current.run.last_step != step - 1 or current.layout != layout:
            try:
                current = self._branches[branch] = self._begin(branch, step, layout)
            except ForeseerError as error:
                self._branches.pop(branch, None)
                return self._against_the_plan(step, branch, str(error), self._model_fn(*args, **kwargs))
        if current.run.forecasts(step):
            began = time.perf_counter()
            reason = current.run.why_not(step)
            if _asks_for_gradients(args, kwargs) or (current.needs_grad and torch.is_grad_enabled()):
                reason = GRADIENTS
            if reason is None:
                output = rebuild(current.template, iter(current.run.forecast(step)))
                row = step - current.run.first_step
                self.record.note_forecast(branch, step, current.run.rows, row, time.perf_counter() - began)
                return output
            self._note(step, branch, reason)
        return self._compute(step, branch, current, args, kwargs)

    def _begin(self, branch: str, step: int, layout: tuple[Any, ...]) -> _Branch:
        spent = sum(computed < step for computed in self.record.computed_steps)
        run = self._run.branch(branch, step, spent)
        self.record.plans[branch] = run.rows
        return _Branch(run, layout)

    def _compute(self, step: int, branch: str, current: _Branch, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = self._model_fn(*args, **kwargs)
        try:
            tensors, current.template = flatten(output), strip(output)
        except UnknownContainerError as error:
            self._branches.pop(branch, None)
            return self._against_the_plan(step, branch, str(error), output)
        if not current.run.accepts(tensors):  # another shape: features of the one before are of no use
            template = current.template
            current = self._branches[branch] = self._begin(branch, step, current.layout)
            self.record.begun_late.append((step, branch))
            current.template = template
        current.needs_grad = any(tensor.requires_grad for tensor in tensors)
        current.run.computed(step, [tensor.detach() for tensor in tensors])
        self.record.plans[branch] = current.run.rows
        self.record.features[branch] = describe_parts(tensors)
        self.record.note_computed(branch, step, len(self._grid))
        return output

    def _against_the_plan(self, step: int, branch: str, reason: str, output: Any) -> Any:
        self._note(step, branch, reason)
        self.record.note_computed(branch, step, len(self._grid))
        return output

    def _note(self, step: int, branch: str, reason: str) -> None:
        if not self.record.failed_open:
            message = f"Step {step} is computed instead of forecast: {reason.rstrip('.')}."
            warnings.warn(f"{message} Said once; record.failed_open lists all.", ForeseerWarning, stacklevel=4)
        self.record.failed_open.append(FailOpen(step, branch, reason))

    def _check_order(self, step: int, current: _Branch | None) -> None:
        if not hasattr(step, "__index__"):
            raise AttachError(f"step is {step!r}; expected an integer, the index on the grid.")
        last = current.run.last_step if current is not None else -1
        if not last < step < len(self._grid):
            raise AttachError(
                f"Step {step} came after step {last} on a grid of {len(self._grid)} steps; steps come in order, and "
                "each run takes a new fs.wrap."
            )


@dataclass
class _Branch:
    run: BranchRun
    layout: tuple[Any, ...]
    template: Any = None
    needs_grad: bool = False


def _asks_for_gradients(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether any tensor among the arguments requires a gradient."""
    return torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in (*args, *kwargs.values())
    )


def wrap(model_fn: Callable[..., Any], policy: Policy | Plan, grid: Grid, *, keep: Keep = "device") -> WrappedModel:
    """Accelerate ``model_fn`` over one run of ``grid``, at the output site.

    Args:
        model_fn: called as ``model_fn(x, t)`` on computed steps; returns a tensor, or a container of tensors.
        policy: a policy, compiled for ``grid`` here, or a plan made for it.
        grid: the run's noise levels.
        keep: ``"device"`` or ``"host"``, where features are kept.

    Returns:
        ``denoise(i, x, t)``; one object per run.

    Raises:
        ForeseerError: the policy cannot be compiled for ``grid``, or its site is not the output.

    >>> import torch
    >>> from foreseer import Grid, Policy, forecast, schedule
    >>> grid = Grid.uniform(4)
    >>> policy = Policy(schedule.Uniform(interval=2), forecast.Reuse())
    >>> denoise = wrap(lambda x, t: x * t, policy, grid)
    >>> [float(denoise(i, torch.ones(1), t)) for i, t in enumerate(grid)]
    [1.0, 1.0, 0.5, 0.5]
    """
    check_kind("grid", grid, Grid, AttachError)
    if isinstance(policy, Plan):
        policy = Policy.from_plan(policy)
    if not isinstance(policy, Policy) or keep not in KEEPS:
        raise AttachError(f"Expected a Policy or Plan and keep in {KEEPS}; received {policy!r} and {keep!r}.")
    if policy.site != "output":
        raise AttachError(f"A plain function has one site, its output; this policy's site is {policy.site!r}.")
    if policy.signal is not None:
        raise AttachError(f"This gate measures inside the network ({policy.signal}); a plain function shows nothing.")
    return WrappedModel(model_fn, policy, grid, keep)
