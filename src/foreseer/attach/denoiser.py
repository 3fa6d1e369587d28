"""The hook on one denoiser: each call is computed or forecast here."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from foreseer.attach.conditioning import Places
from foreseer.attach.containers import signature
from foreseer.attach.derivatives import GRADIENTS
from foreseer.attach.hooks import (
    ContextName,
    Forward,
    Interception,
    Listener,
    foreign_cache,
    is_compiled,
    listen,
    unlisten,
)
from foreseer.attach.probe import Probe
from foreseer.attach.record import parts_of
from foreseer.attach.site import NoFeatureError, SiteError, SiteHook
from foreseer.attach.tracker import Call, Tracker
from foreseer.gate import AnyPolicy, GatedBranch
from foreseer.runtime import BranchRun, Keep

if TYPE_CHECKING:
    from foreseer.attach.handle import Handle


class DenoiserHook(Listener):
    """Stands before a denoiser's calls. State is per thread; the scheduler is asked anew at every call."""

    _is_stateful = True

    def __init__(
        self,
        module: nn.Module,
        name: str,
        *,
        scheduler: Callable[[], Any],
        policy: AnyPolicy,
        keep: Keep,
        site: SiteHook,
        probe: Probe | None = None,
    ) -> None:
        super().__init__()
        self.context = ContextName()
        self.site = site
        self.probe = probe
        self.handle: Handle | None = None
        self._module = module
        self._name = name
        self._scheduler = scheduler
        self._policy = policy
        self._keep: Keep = keep
        self._scale: dict[str, Callable[[float], float]] = {}
        self._places: dict[str, Places] = {}
        self._threads = threading.local()
        self._lock = threading.RLock()
        self._inside = _inside(module)
        self._tries_again = False
        self._foreign_cache: str | None = None
        self._interception: Interception | None = None

    def tracker(self) -> Tracker:
        """This thread's tracker."""
        tracker = getattr(self._threads, "tracker", None)
        if tracker is None:
            tracker = self._threads.tracker = Tracker(self._module, self._policy, self._keep, self._scale, self._places)
            tracker.spent = self._spent
        return tracker

    def _spent(self, identity: Any, step: int) -> int:
        return self.handle.spent(identity, step) if self.handle is not None else 0

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Called by diffusers after a pipeline's run: free what is left of it."""
        self.tracker().reset()
        return module

    def attach(self, no_compile: str | None) -> None:
        """Begin to stand there."""
        self._interception = Interception(self._module, self.call, no_compile)
        self._interception.install()
        listen(self._module, self)

    def detach(self) -> None:
        """Leave the denoiser as it was found."""
        self.site.detach()
        if self.probe is not None:
            self.probe.detach()
        if self._interception is not None:
            self._interception.remove()
        unlisten(self._module)

    def call(self, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        """Compute or forecast one call."""
        assert self.handle is not None
        tracker = self.tracker()
        inputs = signature(args, kwargs)
        call, fresh = tracker.enter(self._scheduler(), self.context.name, inputs, args, kwargs)
        if fresh:
            self._follow_changes()
        record = self.handle.begin_run(tracker.clock.timesteps, self._name) if fresh else self.handle.current_run()
        branch_name = f"{self._name}{call.name}"
        branch, reason = call.branch, call.reason
        if call.late:
            record.begun_late.append((call.step, branch_name))
        if branch is not None and not tracker.clock.settled:
            tracker.clock.confirm(branch.unconfirmed)
        if branch is not None and self._forecasts(branch.run, call.step, forward, args, kwargs):
            began = time.perf_counter()
            reason = self._why_not(branch.run, call.step)
            foreign = tracker.confirm(branch)
            if foreign is not None:
                reason, branch, call.branch = foreign, None, None
            elif reason is None:
                try:
                    output = self.site.forecast(forward, args, kwargs, branch, branch.run.forecast(call.step))
                except SiteError as error:
                    reason = str(error)
                else:
                    record.forecast.setdefault(branch_name, []).append(call.step)
                    record.forecast_seconds += time.perf_counter() - began
                    return output
        if reason is not None:
            self.handle.failed_open(call.step, branch_name, reason)
        output = self._compute(forward, args, kwargs, call, branch_name)
        record.computed.setdefault(branch_name, []).append(call.step)
        record.steps = max(record.steps, len(tracker.grid) if tracker.grid is not None else 0)
        if branch is not None:
            record.plans[branch_name] = branch.run.plan
        return output

    def _follow_changes(self) -> None:
        """Where modules inside came, went, were wrapped, compiled or trained since the last run, have them found anew.

        So too where nothing could be proved on the last run's numbers.
        """
        inside = _inside(self._module)
        self._foreign_cache = foreign_cache(self._module)
        with self._lock:
            if inside == self._inside and not self._tries_again:
                return
            self._inside, self._tries_again = inside, False
            self.site.detach()
            if self.probe is not None:
                self.probe.detach()

    def _forecasts(
        self,
        run: BranchRun | GatedBranch,
        step: int,
        forward: Forward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bool:
        probe = self.probe
        if probe is None or isinstance(run, BranchRun):
            return run.forecasts(step)
        return run.forecasts(step, lambda: probe.measure(forward, args, kwargs))

    def _why_not(self, run: BranchRun | GatedBranch, step: int) -> str | None:
        if torch.is_grad_enabled():
            return GRADIENTS
        if getattr(self._module, "is_cache_enabled", False):
            return "the model's own cache was enabled after attaching: call disable_cache() on it"
        if self._foreign_cache is not None:
            return f"another cache was put inside the model after attaching ({self._foreign_cache}): remove its hooks"
        return run.why_not(step)

    def _compute(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], call: Call, branch_name: str
    ) -> Any:
        if call.branch is None:
            return forward(*args, **kwargs)
        assert self.handle is not None
        try:
            output, feature = self.site.compute(forward, args, kwargs, call.branch)
        except NoFeatureError as error:
            self._tries_again = self._tries_again or not error.lasting
            self.handle.failed_open(call.step, branch_name, str(error))
            return error.output
        names = call.branch.memory.get("names", ())
        record = self.handle.current_run()
        record.features[branch_name] = parts_of(feature, names)
        if "note" in call.branch.memory:
            record.notes[branch_name] = call.branch.memory["note"]
        if call.late or branch_name not in record.plans:
            self.handle.check_rounding(call.branch.run.plan, feature)
            self.handle.check_fineness(call.branch.steps)
        call.branch.run.computed(call.step, [one.detach() if one.requires_grad else one for one in feature], names)
        return output


def _inside(model: nn.Module) -> list[tuple[weakref.ref[nn.Module], bool, bool]]:
    """The modules inside of ``model``, and whether each was compiled, and is in training (dropout)."""
    return [(weakref.ref(part), is_compiled(part), part.training) for part in model.modules() if part is not model]
