"""One denoiser in one thread: the run, the step and the branch that a call belongs to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from foreseer.attach.run.guard import TRANSFORMED, ArgumentMemory, CallInputs, ConstantArguments, is_transformed
from foreseer.attach.run.network_state import NetworkState
from foreseer.attach.run.step_reader import RunLevels, StepReader, UnknownStepError, reading_on_host
from foreseer.errors import ForeseerError, ScheduleError
from foreseer.plan import Policy
from foreseer.runtime import BranchRun, Keep, PolicyRun

MOST_CALLS = 64  # of a denoiser within one step; more are no run of the scheduler
_OTHER_RUN = "its timestep is not that of the step at which the scheduler stands: the call belongs to another run"
_BACKWARDS = "the calls go back through the scheduler's steps, which is no sampling run"


@dataclass
class TrackedBranch:
    """A branch of the current run, and what its site keeps beside the features.

    Attributes:
        name: the cache context's name, or the position of the call within the step.
        run: applies the policy.
        steps: number of steps of the branch's sequence of levels.
        levels: number of different levels among them.
        arguments: identify its calls.
        sequence: index of the sequence of levels that it follows.
        context: the cache context of its calls.
        memory: the site's own (the output's container, shapes of blocks), and the site that the features are of.
    """

    name: str
    run: BranchRun
    steps: int
    levels: int
    arguments: ConstantArguments
    sequence: int = 0
    context: str | None = None
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Call:
    """One call of the denoiser.

    Attributes:
        step: the scheduler's step, -1 where unknown.
        position: the step's position in its sequence of levels.
        name: the branch's name.
        branch: the branch, ``None`` where the call belongs to no plan.
        reason: why the call is computed against the plan, or without one; else ``None``.
        late: whether the branch began with this call although the run did not.
    """

    step: int
    position: int
    name: str
    branch: TrackedBranch | None
    reason: str | None = None
    late: bool = False


class Tracker:
    """Finds each call's run, step and branch, and compiles the policy when a branch begins.

    A branch that begins late or leaves out a step is planned again on the rest of the grid; so is a call whose layout
    or constant arguments match no branch, and every branch when the network's adapters change. No stale feature is
    used, and generations are not mixed: of several branches that a call fits, the most similar sample decides.

    Args:
        module: the denoiser.
        policy: attached to it.
        keep: where features are kept.

    Attributes:
        computed_steps: the steps that a run has computed so far, by any of its denoisers.
        total: number of the scheduler's steps in the current run.
    """

    def __init__(self, module: nn.Module, policy: Policy, keep: Keep) -> None:
        self._module = module
        self._policy = policy
        self._keep: Keep = keep
        self.computed_steps: Callable[[tuple[int, int]], Iterable[int]] = lambda run: ()
        self.reader = StepReader(module)
        self.reset()

    def reset(self) -> None:
        """Forget the current run and free its features."""
        self.network: NetworkState | None = None
        self.total = 0
        self._levels: RunLevels | None = None
        self._several = False  # whether levels are visited more than once
        self._no_levels: str | None = None
        self._first = self._step = -1
        self._runs: dict[int, PolicyRun] = {}
        self._refused: dict[tuple[int, int], str | None] = {}
        self._branches: dict[str, TrackedBranch] = {}
        self._memory: dict[str, ArgumentMemory] = {}  # by branch name
        self._called: set[str] = set()
        self._timestep: float | None = None  # of the current step, where it can be read on the host
        self._direction = 0
        self._exact = False  # whether calls are given the scheduler's own timesteps
        self._ended: str | None = None

    def enter(
        self, scheduler: Any, context: str | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Call, bool]:
        """Where a call belongs, and whether a new run began with it."""
        fresh = self.reader.begins_run(scheduler)
        if fresh:
            self.reset()
        unknown = context or "?"
        if is_transformed():
            return Call(-1, -1, unknown, None, TRANSFORMED), fresh
        timestep = self.reader.argument(args, kwargs)
        try:
            step = self.reader.step(scheduler, timestep, self._first)
        except UnknownStepError as error:
            return Call(-1, -1, unknown, None, str(error)), fresh
        if step < self._step:
            if step != self._first:
                self._branches, self._ended = {}, _BACKWARDS
                return Call(-1, -1, unknown, None, _BACKWARDS), fresh
            self.reset()
            fresh = True
        if self._ended is not None:
            return Call(-1, -1, unknown, None, self._ended), fresh
        reason = self._foreign(step, timestep)
        if reason is not None:
            return Call(-1, -1, unknown, None, reason), fresh
        self._begin_step(scheduler, step)
        if len(self._called) == MOST_CALLS:
            return Call(step, -1, unknown, None, f"the denoiser was called more than {MOST_CALLS} times"), fresh
        return self._find(context, step, CallInputs(args, kwargs, timestep)), fresh

    def end(self, reason: str) -> None:
        """Compute the rest of the run, for ``reason``."""
        self._branches, self._ended = {}, reason

    def restart(self, branch: TrackedBranch, step: int, position: int) -> TrackedBranch | None:
        """Restart ``branch`` at ``step``, where its features change their form; ``None`` if impossible.

        The forward passes already spent still count against the budget.
        """
        try:
            run = self._runs[branch.sequence].branch(branch.name, position, self._spent(branch.sequence, step))
        except ForeseerError:
            self._branches.pop(branch.name, None)  # the run may have ended meanwhile
            return None
        self._branches[branch.name] = again = replace(branch, run=run)
        return again

    def _begin_step(self, scheduler: Any, step: int) -> None:
        """Process a step's first call: branches that were not called at their last step end."""
        if self.network is None:
            self._first = step
            self.network = NetworkState(self._module)
            try:
                self._levels = self.reader.levels(scheduler, self._policy.joins_visits, step)
                self.total = len(self._levels.places)
                self._several = len(self._levels.grids) > 1
            except UnknownStepError as error:
                self._no_levels = str(error)
        elif self.network.adapters.changed():
            self._branches = {}
        if step != self._step:
            all_go_on = step == self._step + 1 and len(self._called) == len(self._branches) and not self._several
            self._step, self._called = step, set()
            if self._levels is not None and step < self.total and not all_go_on:
                done = self._levels.done_before(step)
                live = self._branches.items()
                self._branches = {
                    name: branch for name, branch in live if branch.run.last_step + 1 >= done[branch.sequence]
                }

    def _foreign(self, step: int, timestep: Any) -> str | None:
        """Return why a call cannot belong to the scheduler's ``step``, judged by its timestep, else ``None``.

        Timesteps are compared by memory location, or by value if it can be read on the host. If the run's first call
        received the timestep of its step, all later calls must too. For networks that receive another function of the
        noise level, the values must only keep moving in one direction.
        """
        first = self._step < 0
        place = self.reader.place_of(timestep)
        if place is not None:
            self._exact = self._exact or (first and place == step)
            if self._exact:
                return None if place == step else _OTHER_RUN
        value = reading_on_host(timestep)
        matches = place == step if place is not None else self.reader.matches(step, timestep, value)
        if first:
            self._exact = matches is True
        if self._exact:
            return _OTHER_RUN if matches is False else None
        if value is None:
            return None
        if step == self._step:
            return None if self._timestep in (None, value) else _OTHER_RUN
        if self._timestep is not None and step == self._step + 1:
            direction = (value > self._timestep) - (value < self._timestep)
            if self._direction and direction not in (0, self._direction):
                return _OTHER_RUN
            self._direction = self._direction or direction
        self._timestep = value
        return None

    def _find(self, context: str | None, step: int, inputs: CallInputs) -> Call:
        """The call, with its branch: one that it continues, else a new one."""
        if self._levels is None or step >= self.total:
            self._called.add(name := next(self._free_names(context)))
            return Call(step, -1, name, None, self._no_levels)
        sequence, position = self._levels.places[step]
        best: list[tuple[int, TrackedBranch]] = []
        for other_mode in (False, True):
            for branch in self._branches.values():
                if branch.sequence != sequence or branch.context != context or branch.name in self._called:
                    continue
                score = branch.arguments.score(inputs, other_mode=other_mode)
                if score >= other_mode and (not best or score >= best[0][0]):
                    best = [(score, branch)] if not best or score > best[0][0] else [*best, (score, branch)]
            if best:
                break
        if not best:
            return self._begin_branch(context, step, sequence, position, inputs)
        branch = best[0][1]
        if len(best) > 1:
            branch = max((each for _, each in best), key=lambda each: each.arguments.cosine_similarity(inputs))
        several = len(self._branches) > 1
        if several or not branch.arguments.settled:
            branch.arguments.advance(inputs, subsample=several)
        self._called.add(branch.name)
        return Call(step, position, branch.name, branch)

    def _begin_branch(self, context: str | None, step: int, sequence: int, position: int, inputs: CallInputs) -> Call:
        assert self._levels is not None
        name = next(self._free_names(context))
        self._called.add(name)
        key = sequence, position
        if key not in self._refused:
            try:
                if sequence not in self._runs:
                    self._runs[sequence] = PolicyRun(self._policy, self._levels.grids[sequence], self._keep)
                run = self._runs[sequence].branch(name, position, self._spent(sequence, step))
            except ForeseerError as error:
                # Fewer further visits than the budget: all of them are computed, as planned.
                self._refused[key] = None if sequence and isinstance(error, ScheduleError) else str(error)
            else:
                arguments = ConstantArguments(inputs, self._memory.setdefault(name, ArgumentMemory()))
                visits = self._levels.grids[sequence].visits
                branch = TrackedBranch(name, run, len(visits), visits.count(0), arguments, sequence, context)
                self._branches[name] = branch
                began_with_run = step == self._first or (sequence > 0 and position == 0)
                return Call(step, position, name, branch, late=not began_with_run)
        return Call(step, position, name, None, self._refused[key])

    def _spent(self, sequence: int, step: int) -> int:
        """Steps of a sequence before ``step`` that the run has computed."""
        assert self._levels is not None
        places = self._levels.places
        return sum(each < step and places[each][0] == sequence for each in self.computed_steps(self.reader.run))

    def _free_names(self, context: str | None) -> Iterator[str]:
        """Names that no live branch has; those of branches that ended are used again."""
        names = (f"{context or 'call'} {number}" for number in itertools.count(1))
        if context is not None:
            names = itertools.chain([context], (f"{context} {number}" for number in itertools.count(2)))
        return (name for name in names if name not in self._branches and name not in self._called)
