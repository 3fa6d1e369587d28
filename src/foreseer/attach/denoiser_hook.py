"""The hook on one denoiser: each of its calls is computed or forecast here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foreseer.attach.interception import CacheContext, Forward, Interception, Listener, is_compiled, listen, unlisten
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.site_errors import NoFeatureError, SiteError
from foreseer.attach.run.guard import GRADIENTS
from foreseer.attach.run.scheduler_watch import SchedulerWatch
from foreseer.attach.run.tracker import Call, TrackedBranch, Tracker
from foreseer.attach.run_record import FailOpen, RunRecord, describe_parts
from foreseer.attach.signals.base import SignalProbe
from foreseer.attach.sites.base import SiteHook
from foreseer.attach.sites.output import OutputSite
from foreseer.errors import in_one_line
from foreseer.guidance import Guidance
from foreseer.plan import Policy
from foreseer.plan.run_decisions import no_signal
from foreseer.runtime import Keep

if TYPE_CHECKING:
    from foreseer.attach.handle import Handle


class DenoiserHook(Listener):
    """Hook that computes or forecasts the calls of one denoiser.

    Each thread has a separate tracker. The scheduler is read at every call.
    """

    _is_stateful = True

    def __init__(
        self,
        module: nn.Module,
        name: str,
        *,
        scheduler: Callable[[], Any],
        guidance: Callable[[], Guidance | None],
        policy: Policy,
        keep: Keep,
        site: SiteHook,
        signal: SignalProbe | None = None,
        fallback: bool = False,
    ) -> None:
        super().__init__()
        self.context = CacheContext()
        self.site = self._asked_site = site
        self.signal = signal
        self.handle: Handle | None = None
        self._module = module
        self._name = name
        self._find_scheduler = scheduler
        self._find_guidance = guidance
        self._scheduler: Any = None
        self._policy = policy
        self._keep: Keep = keep
        self._threads = threading.local()
        self._lock = threading.RLock()
        self._modules: list[Any] | None = None
        self._tries_again = False
        self._fallback = fallback
        self._copies = self._detached = False
        self._has_cache = hasattr(module, "is_cache_enabled")
        self._interception: Interception | None = None

    def tracker(self) -> Tracker:
        """This thread's tracker."""
        tracker = getattr(self._threads, "tracker", None)
        if tracker is None:
            tracker = self._threads.tracker = Tracker(self._module, self._policy, self._keep)
            tracker.computed_steps = self._computed_steps
        return tracker

    def _computed_steps(self, run: tuple[int, int]) -> tuple[int, ...]:
        return self.handle.computed_steps(run) if self.handle is not None else ()

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Free the state of the last run; diffusers calls this after a pipeline's run."""
        self.tracker().reset()
        if self.signal is not None:
            self.signal.forget()
        return module

    def attach(self, no_compile: str | None) -> None:
        """Begin to intercept calls."""
        self._follow_scheduler(self._find_scheduler())
        self._interception = Interception(self._module, self.call, no_compile)
        self._interception.install()
        listen(self._module, self)

    def detach(self) -> None:
        """Restore the denoiser and the scheduler; other threads remove what they still install."""
        self._detached = True
        self.site.detach()
        if self.signal is not None:
            self.signal.detach()
        if self._interception is not None:
            self._interception.remove()
        unlisten(self._module)
        self._follow_scheduler(None)

    def call(self, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        """Compute or forecast one call."""
        handle = self.handle
        assert handle is not None
        tracker: Tracker = getattr(self._threads, "tracker", None) or self.tracker()
        scheduler = self._find_scheduler()
        if scheduler is not self._scheduler and scheduler is not None:
            self._follow_scheduler(scheduler)
        if self.signal is not None:
            self.signal.forget()
        call, fresh = tracker.enter(self._scheduler, self.context.name, args, kwargs)
        if fresh:
            other_guidance = handle.check_guidance(self._find_guidance)
            if other_guidance is not None:
                tracker.end(other_guidance)
            self._begin_run(tracker)
            record = handle.begin_run(tracker.reader.run, self._name)
        else:
            record = handle.current_run(tracker.reader.run, self._name)
        network_call = NetworkCall(forward, args, kwargs)
        name = f"{self._name}{call.name}"
        branch, reason = call.branch, call.reason
        if branch is not None and self._forecasts(branch, call, network_call):
            began = time.perf_counter()
            reason = self._why_not(branch, call, tracker)
            if reason is None:
                try:
                    site: SiteHook = branch.memory["site"]  # another thread may change self.site meanwhile
                    output = site.forecast(network_call, branch, branch.run.forecast(call.position))
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # noqa: BLE001 - the whole network may run where a skipped one fails
                    reason = (
                        str(error) if isinstance(error, SiteError) else f"its forecast failed: {in_one_line(error)}"
                    )
                else:
                    local = call.position - branch.run.first_step
                    record.note_forecast(name, call.step, branch.run.rows, local, time.perf_counter() - began)
                    return output
        if call.late:
            record.begun_late.append((call.step, name))
        failed = handle.failed_open(call.step, name, reason) if reason is not None else None
        return self._compute(network_call, call, record, tracker, failed)

    def _computed_at(self, site: SiteHook, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """The output and the feature at ``site``, which leaves the model if another thread left it meanwhile."""
        try:
            return site.compute(call, branch)
        finally:
            if site is not self.site or self._detached:
                site.detach()

    def _fall_back(
        self, error: NoFeatureError, site: SiteHook, branch: TrackedBranch
    ) -> tuple[list[Tensor], SiteHook] | None:
        """Switch from ``site`` to the output site if the fallback is enabled.

        Return this call's feature, and the site it is of; ``None`` if the site is the output or the output has no
        feature. The next run tries the site again unless the reason is lasting.
        """
        if not self._fallback or isinstance(site, OutputSite) or self.handle is None:
            return None
        with self._lock:
            output_site = self.site if isinstance(self.site, OutputSite) else OutputSite()  # another thread's, if any
            self.site = output_site
        site.detach()
        self.handle.fell_back(str(error))
        branch.memory.clear()
        try:
            return output_site.take(error.output, branch), output_site
        except NoFeatureError:
            return None

    def _follow_scheduler(self, scheduler: Any) -> None:
        """Watch ``scheduler`` instead of the previous scheduler."""
        if self._scheduler is not None:
            SchedulerWatch.of(self._scheduler).leave(self._scheduler)
        self._scheduler = scheduler
        if scheduler is not None:
            SchedulerWatch.of(scheduler).join()

    def _begin_run(self, tracker: Tracker) -> None:
        """Reset the site and the signal if the modules changed or the last verification can be retried.

        They search the network again on their next call.
        """
        if tracker.network is None:
            return
        # CUDA graphs reuse the memory of their outputs: of the network's, or of those of what is compiled inside it.
        self._copies = is_compiled(self._module) or any(compiled for _, compiled, _ in tracker.network.modules)
        with self._lock:
            modules, self._modules = self._modules, tracker.network.modules
            if modules == self._modules and not self._tries_again:
                return
            self._tries_again, self.site = False, self._asked_site
            self.site.detach()
            if self.signal is not None:
                self.signal.detach()

    def _forecasts(self, branch: TrackedBranch, call: Call, network_call: NetworkCall) -> bool:
        signal = self.signal
        measure = no_signal if signal is None else lambda: self._measured(signal, network_call)
        return branch.run.forecasts(call.position, measure) and branch.memory.get("site") is self.site

    def _measured(self, signal: SignalProbe, network_call: NetworkCall) -> Sequence[Tensor]:
        try:
            return self._kept(signal.measure(network_call))
        finally:
            if self._detached:
                signal.detach()

    def _kept(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """``tensors``, copied if the network's next call may write into their memory."""
        return [tensor.clone() for tensor in tensors] if self._copies else tensors

    def _why_not(self, branch: TrackedBranch, call: Call, tracker: Tracker) -> str | None:
        if torch.is_grad_enabled():
            return GRADIENTS
        if self._has_cache and self._module.is_cache_enabled:
            return "the model's own cache was enabled after attaching: call disable_cache() on it"
        network = tracker.network
        if network is not None and network.foreign_cache is not None:
            return f"another cache was put inside the model after attaching ({network.foreign_cache}): remove its hooks"
        return branch.run.why_not(call.position)

    def _compute(
        self, network_call: NetworkCall, call: Call, record: RunRecord, tracker: Tracker, failed: FailOpen | None
    ) -> Any:
        """Run the network, and keep its feature for the branch."""
        handle, branch, name = self.handle, call.branch, f"{self._name}{call.name}"
        assert handle is not None
        if branch is None:
            output = network_call.run()
            record.note_computed(name, call.step, tracker.total)
            return output
        inputs = branch.run.first_inputs(call.position, (*network_call.args, *network_call.kwargs.values()))
        site = self.site
        if branch.memory.get("site") is not site:  # another branch, or a run of another thread, changed it
            branch.memory.clear()
        try:
            output, feature = self._computed_at(site, network_call, branch)
        except NoFeatureError as error:
            self._tries_again = self._tries_again or not error.lasting
            replacement = self._fall_back(error, site, branch)
            if replacement is None:
                record.note_computed(name, call.step, tracker.total)
                record.plans[name] = branch.run.rows
                handle.failed_open(call.step, name, str(error), instead_of=failed)
                return error.output
            output, (feature, site) = error.output, replacement
        feature = self._kept([tensor.detach() if tensor.requires_grad else tensor for tensor in feature])
        storing = tracker.network.storing_processor() if tracker.network is not None else None
        if storing is not None:
            tracker.end(f"an attention processor keeps what it computes for the pipeline to read ({storing})")
        elsewhere = branch.run.layout and branch.memory.get("site") is not site
        if elsewhere or not branch.run.accepts(feature):
            again = tracker.restart(branch, call.step, call.position)
            if again is None:  # later calls say why
                record.note_computed(name, call.step, tracker.total)
                return output
            branch = again
            record.begun_late.append((call.step, name))
        names = branch.memory.get("names", ())
        if not branch.run.layout or name not in record.features:
            record.features[name] = describe_parts(feature, names)
        if "note" in branch.memory:
            record.notes[name] = branch.memory["note"]
        if call.late or name not in record.plans:
            handle.check_rounding(branch.run.rows, feature)
            handle.check_fineness(branch.levels)
            handle.check_scheduler(branch.run.rows, self._scheduler)
        branch.run.computed(call.position, feature, names, inputs=inputs)
        branch.memory["site"] = site
        if branch.run.note is not None:
            record.notes[name] = branch.run.note
        record.note_computed(name, call.step, tracker.total)
        record.plans[name] = branch.run.rows
        return output
