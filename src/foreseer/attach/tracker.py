"""One denoiser in one thread: from a call to its run, branch and step, and to the decision."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from foreseer.attach.clock import StepClock, UnknownStepError
from foreseer.attach.conditioning import Conditioning, Places
from foreseer.attach.derivatives import TRANSFORMED, is_transformed
from foreseer.attach.settings import Settings
from foreseer.errors import ForeseerError
from foreseer.gate import AnyPolicy, GatedBranch, PolicyRun
from foreseer.grid import Grid
from foreseer.runtime import BranchRun, Keep

MOST_CALLS = 64  # of a denoiser at one step; what calls it more often is no run of the scheduler's


@dataclass
class TrackedBranch:
    """A branch of the current run, and what its site keeps beside the features.

    Attributes:
        name: the cache context's name, or which call within the step it is.
        run: the plan, or the gate, being applied.
        steps: how many the whole run has.
        conditioning: by what its calls are known.
        unconfirmed: calls since the clock last confirmed them: their steps and timestep arguments.
        memory: the site's own (an output's container, the blocks' shapes).
    """

    name: str
    run: BranchRun | GatedBranch
    steps: int
    conditioning: Conditioning
    unconfirmed: list[tuple[int, Any]] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass
class Call:
    """One call of the denoiser: where it stands, and why it must be computed if it must.

    Attributes:
        step: the run's step, -1 where unknown.
        name: the branch's name.
        branch: the branch, ``None`` where the call belongs to no plan.
        reason: why the call is computed against or without a plan; ``None`` where all is as planned.
        late: whether the branch began with this call, although the run did not.
    """

    step: int
    name: str
    branch: TrackedBranch | None
    reason: str | None = None
    late: bool = False


class Tracker:
    """Tells each call's run, step and branch, and compiles the policy when a branch begins.

    A branch that begins late or skips a step begins anew, on the rest of the grid; so does a call whose shapes or
    conditioning no branch has, and so do all when the network's settings change. Nothing computed before can be stale,
    and no two generations are mixed: where a call may go on with several branches, the likest sample tells which.

    Args:
        module: the denoiser.
        policy: what is attached to it.
        keep: where features are kept.
        scale: what all threads know of the denoiser's timestep argument.
        places: what all threads know of its other arguments, by branch.
    """

    def __init__(
        self,
        module: nn.Module,
        policy: AnyPolicy,
        keep: Keep,
        scale: dict[str, Callable[[float], float]] | None = None,
        places: dict[str, Places] | None = None,
    ) -> None:
        self._module = module
        self._policy = policy
        self._keep: Keep = keep
        self.spent: Callable[[Any, int], int] = lambda timesteps, step: 0  # of the run's budget, by any denoiser
        self.clock = StepClock(module, scale)
        self.grid: Grid | None = None
        self._places = {} if places is None else places
        self._settings: Settings | None = None
        self._first = 0
        self._run: PolicyRun | None = None
        self._no_grid: str | None = None
        self._refused: dict[int, str] = {}
        self._branches: dict[str, TrackedBranch] = {}
        self._step = -1
        self._called: set[str] = set()

    def reset(self) -> None:
        """Forget the current run and free its features."""
        self.grid = None
        self._settings = None
        self._first = 0
        self._run = None
        self._no_grid = None
        self._refused = {}
        self._branches = {}
        self._step = -1
        self._called = set()

    def enter(
        self, scheduler: Any, context: str | None, signature: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Call, bool]:
        """Where a call stands, and whether a new run began with it."""
        fresh = self.clock.new_run(scheduler)
        if fresh:
            self.reset()
        if is_transformed():
            return Call(-1, context or "?", None, TRANSFORMED), fresh
        try:
            step = self.clock.step(scheduler, args, kwargs)
        except UnknownStepError as error:
            return Call(-1, context or "?", None, str(error)), fresh
        if step < self._step:
            self.reset()
            fresh = True
        if self._step < 0:
            self._first = step
        if self.grid is None and self._no_grid is None:
            try:
                self.grid = self.clock.grid(scheduler)
            except UnknownStepError as error:
                self._no_grid = str(error)
        if step != self._step:
            live = {name: one for name, one in self._branches.items() if one.run.last_step == step - 1}
            self._step, self._called, self._branches = step, set(), live
        if self._settings is None:
            self._settings = Settings(self._module)
        elif self._settings.changed():
            self._branches = {}
        if len(self._called) == MOST_CALLS:
            return Call(step, context or "?", None, f"the denoiser was called more than {MOST_CALLS} times"), fresh
        conditioning = Conditioning(args, kwargs, self.clock.timestep_position)
        name = self._name(context, step, signature, conditioning)
        self._called.add(name)
        argument = self.clock.argument(args, kwargs)
        call = self._branch(name, step, signature, conditioning, argument)
        if call.branch is not None:
            call.branch.unconfirmed.append((step, argument))
        return call, fresh

    def confirm(self, branch: TrackedBranch) -> str | None:
        """Why the branch is another run's, or ``None``; such a branch is forgotten."""
        reason = self.clock.confirm(branch.unconfirmed)
        branch.unconfirmed.clear()
        if reason is not None:
            del self._branches[branch.name]
        return reason

    def _name(self, context: str | None, step: int, signature: object, conditioning: Conditioning) -> str:
        """The branch that the call goes on with: of those not called at this step, one that it fits; or a new name."""
        names = (f"{context or 'call'} {count}" for count in itertools.count(1))
        if context is not None:
            names = itertools.chain([context], (f"{context} {count}" for count in itertools.count(2)))
        free, fitting = None, []
        for name in itertools.islice(names, len(self._branches) + len(self._called) + 1):
            known = self._branches.get(name)
            if known is None:
                free = free or (None if name in self._called else name)
            elif (
                name not in self._called
                and known.run.continues(step, signature)
                and known.conditioning.may_go_on(conditioning)
            ):
                fitting.append(known)
        if fitting:
            found = fitting[0]
            if len(fitting) > 1:
                found = max(fitting, key=lambda one: one.conditioning.likeness(conditioning))
            found.conditioning.go_on(conditioning)
            return found.name
        assert free is not None
        return free

    def _branch(self, name: str, step: int, signature: object, conditioning: Conditioning, argument: Any) -> Call:
        branch = self._branches.get(name)
        if branch is None:
            foreign = self.clock.confirm([(step, argument)]) if step > self._first and self.clock.settled else None
            if foreign is not None:
                return Call(step, name, None, foreign)
            if self.grid is None:
                return Call(step, name, None, self._no_grid)
            if step not in self._refused:
                if self._run is None:
                    self._run = PolicyRun(self._policy, self.grid, self._keep)
                try:
                    run = self._run.branch(name, step, signature, self.spent(self.clock.timesteps, step))
                except ForeseerError as error:
                    self._refused[step] = str(error)
                else:
                    conditioning.places = self._places.setdefault(name, Places())
                    branch = self._branches[name] = TrackedBranch(name, run, len(self.grid), conditioning)
                    return Call(step, name, branch, late=step > self._first)
            return Call(step, name, None, self._refused[step])
        return Call(step, name, branch)
