"""`wrap`: a policy around a plain function, for a sampling loop of one's own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from foreseer.attach.containers import UnknownContainerError, flatten, rebuild, signature, strip
from foreseer.attach.derivatives import GRADIENTS, TRANSFORMED, asks_for_gradients, is_transformed
from foreseer.attach.record import FailOpen, RunRecord, parts_of
from foreseer.checks import check_kind
from foreseer.errors import AttachError, ForeseerError, ForeseerWarning
from foreseer.gate import AnyPolicy, GatedBranch, GatedPolicy, PolicyRun
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy
from foreseer.runtime import KEEPS, BranchRun, Keep


class WrappedModel:
    """A model function that computes some steps and forecasts the others. One object serves one run.

    Attributes:
        record: what happened so far.
    """

    def __init__(self, model_fn: Callable[..., Any], policy: AnyPolicy, grid: Grid, keep: Keep = "device") -> None:
        self._run = PolicyRun(policy, grid, keep)
        self._plan = policy.compile(grid) if isinstance(policy, Policy) else None
        self.record = RunRecord(steps=len(grid))
        self._model_fn = model_fn
        self._grid = grid
        self._branches: dict[str, _Branch] = {}

    @property
    def plan(self) -> Plan | None:
        """The plan of the whole run; under a gate, of the branch called first, ``None`` before its first step."""
        return self._plan or next(iter(self.record.plans.values()), None)

    def __call__(self, step: int, *args: Any, branch: str = "", **kwargs: Any) -> Any:
        """The model's output at ``step``: ``model_fn(*args, **kwargs)``, or its forecast.

        Args:
            step: index on the grid; each branch is called once a step, in order. A branch that begins late, or whose
                tensors change shape, begins anew there, on the rest of the grid.
            args: what the model takes: (x, t) usually.
            branch: a name that keeps conditional and unconditional calls apart; where the plan has rows of the branch's
                own, they go by it.
            kwargs: passed on to the model.

        Raises:
            AttachError: the step is not on the grid, or not after the branch's last one.
        """
        known = self._branches.get(branch)
        self._check_order(step, known)
        if is_transformed():
            self._branches.pop(branch, None)
            return self._against_the_plan(step, branch, TRANSFORMED, self._model_fn(*args, **kwargs))
        inputs = signature(args, kwargs)
        if known is None or not known.run.continues(step, inputs):
            try:
                spent = sum(one < step for one in self.record.computed_steps)
                run = self._run.branch(branch, step, inputs, spent)
            except ForeseerError as error:
                self._branches.pop(branch, None)
                return self._against_the_plan(step, branch, str(error), self._model_fn(*args, **kwargs))
            known = self._branches[branch] = _Branch(run)
            self.record.plans[branch] = run.plan
        if known.run.forecasts(step):
            began = time.perf_counter()
            reason = known.run.why_not(step)
            if asks_for_gradients(args, kwargs) or (known.needs_grad and torch.is_grad_enabled()):
                reason = GRADIENTS
            if reason is None:
                feature = known.run.forecast(step)
                self.record.forecast.setdefault(branch, []).append(step)
                self.record.forecast_seconds += time.perf_counter() - began
                return rebuild(known.template, iter(feature))
            self._note(step, branch, reason)
        output = self._model_fn(*args, **kwargs)
        try:
            tensors, known.template = flatten(output), strip(output)
        except UnknownContainerError as error:
            self._branches.pop(branch, None)
            return self._against_the_plan(step, branch, str(error), output)
        known.needs_grad = any(tensor.requires_grad for tensor in tensors)
        known.run.computed(step, [tensor.detach() for tensor in tensors])
        self.record.plans[branch] = known.run.plan
        self.record.features[branch] = parts_of(tensors)
        self.record.computed.setdefault(branch, []).append(step)
        return output

    def _against_the_plan(self, step: int, branch: str, reason: str, output: Any) -> Any:
        self._note(step, branch, reason)
        self.record.computed.setdefault(branch, []).append(step)
        return output

    def _note(self, step: int, branch: str, reason: str) -> None:
        if not self.record.failed_open:
            words = f"Step {step} is computed instead of forecast: {reason.rstrip('.')}."
            warnings.warn(f"{words} Said once; record.failed_open lists all.", ForeseerWarning, stacklevel=4)
        self.record.failed_open.append(FailOpen(step, branch, reason))

    def _check_order(self, step: int, known: _Branch | None) -> None:
        if not hasattr(step, "__index__"):
            raise AttachError(f"step is {step!r}; expected a whole number, the index on the grid.")
        last = known.run.last_step if known is not None else -1
        if not last < step < len(self._grid):
            raise AttachError(
                f"Step {step} came after step {last} on a grid of {len(self._grid)} steps; steps come in order, and "
                "each run takes a new fs.wrap."
            )


@dataclass
class _Branch:
    run: BranchRun | GatedBranch
    template: Any = None
    needs_grad: bool = False


def wrap(model_fn: Callable[..., Any], policy: AnyPolicy | Plan, grid: Grid, *, keep: Keep = "device") -> WrappedModel:
    """Accelerate ``model_fn`` over one run of ``grid``; the output site only.

    Args:
        model_fn: called as ``model_fn(x, t)`` on computed steps; returns a tensor, or a container of tensors.
        policy: a policy, compiled for ``grid`` here, or a plan made for it.
        grid: the run's noise levels.
        keep: ``"device"`` or ``"host"``, where features are kept.

    Returns:
        ``denoise(i, x, t)``; one object a run.

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
    if not isinstance(policy, AnyPolicy) or keep not in KEEPS:
        raise AttachError(f"Expected a Policy or Plan and keep in {KEEPS}; received {policy!r} and {keep!r}.")
    if policy.site != "output":
        raise AttachError(f"A plain function has one site, its output; this policy's site is {policy.site!r}.")
    if isinstance(policy, GatedPolicy) and policy.gate.signal is not None:
        raise AttachError(f"This gate looks inside the network ({policy.gate.signal}); a plain function shows nothing.")
    return WrappedModel(model_fn, policy, grid, keep)
