"""`wrap`: a policy around a plain function, for a sampling loop of your own."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any

from foreseer.attach.run_record import RunRecord
from foreseer.attach.single_run import Run
from foreseer.errors import AttachError
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy
from foreseer.runtime import Keep


class WrappedModel:
    """A model function that computes some steps and forecasts the others. One object serves one run."""

    def __init__(self, model_fn: Callable[..., Any], policy: Policy | Plan, grid: Grid, keep: Keep = "device") -> None:
        if not callable(model_fn):
            raise AttachError(f"Expected a function of (x, t), received {reprlib.repr(model_fn)}.")
        self._model_fn = model_fn
        self._run = Run(policy, grid, keep=keep)

    @property
    def record(self) -> RunRecord:
        """What has happened so far."""
        return self._run.record

    @property
    def plan(self) -> Plan | None:
        """The plan of the whole run; under a gate, of the branch called first, ``None`` before its first step."""
        return self._run.plan

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
        output = self._run.forecast(step, branch, (*args, *kwargs.values()))
        if output is None:
            output = self._model_fn(*args, **kwargs)
            self._run.computed(step, output, branch)
        return output


def wrap(model_fn: Callable[..., Any], policy: Policy | Plan, grid: Grid, *, keep: Keep = "device") -> WrappedModel:
    """Accelerate ``model_fn`` over one run of ``grid``, at the output site.

    Args:
        model_fn: called as ``model_fn(x, t)`` on computed steps; returns a tensor, or a container of tensors, in memory
            that its next call does not write into (with CUDA graphs, a copy).
        policy: a policy, compiled for ``grid`` here, or a plan made for it.
        grid: the run's noise levels.
        keep: ``"device"`` or ``"host"``, where features are kept.

    Returns:
        ``denoise(i, x, t)``; one object per run.

    Raises:
        ForeseerError: ``model_fn`` cannot be called, the policy cannot be compiled for ``grid``, or its site is not
            the output.

    >>> import torch
    >>> from foreseer import Grid, Policy, forecast, schedule
    >>> grid = Grid.uniform(4)
    >>> policy = Policy(schedule.Uniform(interval=2), forecast.Reuse())
    >>> denoise = wrap(lambda x, t: x * t, policy, grid)
    >>> [float(denoise(i, torch.ones(1), t)) for i, t in enumerate(grid)]
    [1.0, 1.0, 0.5, 0.5]
    """
    return WrappedModel(model_fn, policy, grid, keep)
