"""Many runs of one network side by side: state by run id, and batches of calls at different steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from foreseer.attach.run_record import RunRecord
from foreseer.attach.single_run import Run
from foreseer.checks import check_kind
from foreseer.errors import AttachError
from foreseer.grid import Grid
from foreseer.plan import Plan, Policy
from foreseer.runtime import Keep


@dataclass(frozen=True)
class RunCall:
    """One call of the network that a host is about to make.

    Attributes:
        run_id: of the run.
        step: index on ``grid``.
        grid: the run's noise levels.
        branch: as for :meth:`Run.forecast`.
        inputs: as for :meth:`Run.forecast`.
        policy: of the run; ``None`` for the table's.
    """

    run_id: Hashable
    step: int
    grid: Grid
    branch: str = ""
    inputs: Sequence[Any] = ()
    policy: Policy | Plan | None = None


class Runs:
    """Table of interleaved runs in one process, by run id.

    Several threads may share the table; one thread at a time may use a run.

    Args:
        policy: policy of the runs that begin without one.
        keep: where features are kept.

    >>> import torch
    >>> from foreseer import Policy, forecast, schedule
    >>> runs = Runs(Policy(schedule.Uniform(interval=2), forecast.Reuse()))
    >>> grid = Grid.uniform(4)
    >>> runs.forecast("a", 0, grid) is None, runs.forecast("b", 0, grid) is None
    (True, True)
    >>> runs.computed("a", 0, torch.ones(1)); runs.computed("b", 0, torch.zeros(1))
    >>> float(runs.forecast("a", 1, grid)), float(runs.forecast("b", 1, grid))
    (1.0, 0.0)
    >>> runs.end("a").nfe, len(runs)
    (1, 1)
    """

    def __init__(self, policy: Policy | Plan | None = None, *, keep: Keep = "device") -> None:
        self._policy = policy
        self._keep: Keep = keep
        self._runs: dict[Hashable, Run] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, run_id: Hashable) -> bool:
        return run_id in self._runs

    def begin(self, run_id: Hashable, grid: Grid, policy: Policy | Plan | None = None) -> Run:
        """Return the run ``run_id``; begin it if the id is new.

        Raises:
            AttachError: no policy was given, or the run was begun on another grid.
            ForeseerError: as for :class:`Run`.
        """
        check_kind("grid", grid, Grid, AttachError)
        run = self._runs.get(run_id)
        if run is None:
            policy = policy if policy is not None else self._policy
            if policy is None:
                raise AttachError(f"Run {run_id!r} has no policy: pass one here, or to Runs(policy).")
            run = Run(policy, grid, keep=self._keep)
            with self._lock:
                return self._runs.setdefault(run_id, run)
        if run.grid != grid:
            raise AttachError(
                f"Run {run_id!r} was begun on a grid of {len(run.grid)} steps, and is called on another of "
                f"{len(grid)}: end it first (end or drop), or use a new run id."
            )
        return run

    def forecast(self, run_id: Hashable, step: int, grid: Grid, branch: str = "", inputs: Sequence[Any] = ()) -> Any:
        """As :meth:`Run.forecast`, for the run ``run_id``; a new id begins a run."""
        return self.begin(run_id, grid).forecast(step, branch, inputs)

    def computed(self, run_id: Hashable, step: int, output: Any, branch: str = "") -> None:
        """As :meth:`Run.computed`, for the run ``run_id``.

        Raises:
            AttachError: there is no such run.
        """
        self._run(run_id).computed(step, output, branch)

    def answer(self, calls: Sequence[RunCall], compute: Callable[[list[int]], Sequence[Any]]) -> list[Any]:
        """Answer a batch of calls of several runs with at most one call of the network.

        The calls may be at different steps. If ``compute`` fails, no run has advanced: the same batch may be repeated.

        Args:
            calls: the batch; at most one call per run and branch.
            compute: called with the indices in ``calls`` that must be computed, if any; returns their outputs.

        Returns:
            One output per call, in order.

        Raises:
            AttachError: two calls of one run and branch, outputs that are not one per index, or as for :meth:`begin`
                and :meth:`Run.forecast`.
        """
        _check_batch(calls)
        runs = [self.begin(call.run_id, call.grid, call.policy) for call in calls]
        pairs = list(zip(runs, calls, strict=True))
        missing = [
            index
            for index, (run, call) in enumerate(pairs)
            if not run.can_forecast(call.step, call.branch, call.inputs)
        ]
        computed = dict(zip(missing, _outputs(compute, missing), strict=True))
        forecasts = {
            index: run.make_forecast(call.step, call.branch)
            for index, (run, call) in enumerate(pairs)
            if index not in computed
        }
        for index, output in computed.items():
            runs[index].computed(calls[index].step, output, calls[index].branch)
        outputs = computed | forecasts
        return [outputs[index] for index in range(len(pairs))]

    def end(self, run_id: Hashable) -> RunRecord:
        """Free the run ``run_id`` and return its record.

        Raises:
            AttachError: there is no such run.
        """
        record = self._run(run_id).record
        self.drop(run_id)
        return record

    def drop(self, run_id: Hashable) -> None:
        """Free the run ``run_id``, finished or not; do nothing if it does not exist."""
        with self._lock:
            run = self._runs.pop(run_id, None)
        if run is not None:
            run.free()

    def _run(self, run_id: Hashable) -> Run:
        run = self._runs.get(run_id)
        if run is None:
            raise AttachError(f"There is no run {run_id!r}: it was ended or dropped, or forecast() was never called.")
        return run


def _check_batch(calls: Sequence[RunCall]) -> None:
    """Refuse what is not a batch of calls, or two calls of one run and branch."""
    check_kind("calls", calls, Sequence, AttachError)
    seen: set[tuple[Hashable, str]] = set()
    for call in calls:
        check_kind("A call", call, RunCall, AttachError)
        if (call.run_id, call.branch) in seen:
            raise AttachError(
                f"The batch holds two calls of run {call.run_id!r}, branch {call.branch!r}: answer one step at a time, "
                "and give the branches of a run different names."
            )
        seen.add((call.run_id, call.branch))


def _outputs(compute: Callable[[list[int]], Sequence[Any]], indices: list[int]) -> list[Any]:
    """Return one output per index."""
    outputs = compute(indices) if indices else []
    try:
        outputs = list(outputs)
    except TypeError as error:
        raise AttachError(f"compute returned a {type(outputs).__name__}; expected a list of outputs.") from error
    if len(outputs) != len(indices):
        raise AttachError(f"compute returned {len(outputs)} outputs for {len(indices)} calls; expected one per call.")
    return outputs
