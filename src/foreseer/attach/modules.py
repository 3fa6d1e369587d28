"""The module site: every attention and MLP output inside the blocks is forecast; what joins them runs at each step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.bypass import LEFT_OUT, WRONG_PLACE, Bypass, check_all_called, stand_in
from foreseer.attach.containers import flatten, rebuild, strip
from foreseer.attach.hooks import Forward, is_compiled
from foreseer.attach.judge import judge
from foreseer.attach.module_finder import Found, ModuleFinder
from foreseer.attach.proof import Unproven, same_bits, unproven
from foreseer.attach.site import NoFeatureError, SiteError
from foreseer.attach.tracker import TrackedBranch


@dataclass
class Taken:
    """Which modules of a network are bypassed.

    Attributes:
        features: those whose outputs are forecast, by their path in the network.
        idle: those whose outputs only the others need; they are skipped with stand-ins.
    """

    features: dict[nn.Module, str]
    idle: tuple[nn.Module, ...]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All that are bypassed."""
        return (*self.features, *self.idle)


@dataclass
class Passed:
    """A module's call: what its output looks like, and where its tensors are among the feature's."""

    module: nn.Module
    template: Any
    first: int
    count: int


@dataclass
class ModuleCalls:
    """Lets the modules run, and takes their outputs as the feature.

    Attributes:
        taken: the modules.
        calls: in order.
        feature: the tensors.
        names: of the module that each tensor is from; its second call in a step has a name of its own.
    """

    taken: Taken
    calls: list[Passed] = field(default_factory=list)
    feature: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    _counts: dict[nn.Module, int] = field(default_factory=dict)

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module."""
        output = forward(*args, **kwargs)
        name = self.taken.features.get(module)
        if name is None:
            self.calls.append(Passed(module, stand_in(output), 0, 0))
            return output
        tensors = flatten(output)
        count = self._counts[module] = self._counts.get(module, 0) + 1
        self.calls.append(Passed(module, strip(output), len(self.feature), len(tensors)))
        self.feature.extend(tensors)
        self.names.extend([name if count == 1 else f"{name} {count}"] * len(tensors))
        return output


@dataclass
class Forecasts:
    """Gives what stands for the modules' outputs, in the order of their calls when they were last computed."""

    calls: list[Passed]
    feature: Sequence[Tensor]
    position: int = 0

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module's forecast output."""
        return self.answer(self.next(module))

    def next(self, module: nn.Module) -> Passed:
        """The call that this one stands for.

        Raises:
            SiteError: another module was expected.
        """
        if self.position >= len(self.calls) or self.calls[self.position].module is not module:
            raise SiteError("the network called its modules in another order than when it was last computed")
        self.position += 1
        return self.calls[self.position - 1]

    def finish(self) -> None:
        """See that all were called.

        Raises:
            SiteError: some were not.
        """
        check_all_called(self.position, self.calls)

    def answer(self, call: Passed) -> Any:
        """What the call gives."""
        tensors = (self.feature[index] for index in range(call.first, call.first + call.count))
        return rebuild(call.template, tensors) if call.count else call.template


class ModuleSite:
    """The feature is what the attention and MLP modules give; norms, modulation and additions run at each step.

    The modules are found on the first computed call and put to the proof there: the network is run again with all of
    them bypassed by their own true outputs, and its output must be the same to the last bit. A network for which that
    fails is computed at every step, and the record says so.
    """

    def __init__(self, model: nn.Module) -> None:
        self.taken: Taken | None = None
        self._model = model
        self._no_modules: Unproven | None = None
        self._bypass = Bypass(model)
        self._lock = threading.RLock()

    def compute(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], branch: TrackedBranch
    ) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is what its modules gave."""
        self.find(forward, args, kwargs)
        assert self.taken is not None
        with self._bypass.handled_by(ModuleCalls(self.taken)) as found:
            output = forward(*args, **kwargs)
        self._bypass.check_in_place(output)
        if not found.calls:
            raise NoFeatureError(LEFT_OUT, output)
        if branch.memory.setdefault("names", found.names) != found.names:
            raise NoFeatureError("the network called other modules than at the step computed before", output)
        branch.memory["calls"] = found.calls
        return output, found.feature

    def find(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the modules, if that was not tried yet.

        Raises:
            NoFeatureError: there are none that can be bypassed; the network has run.
        """
        with self._lock:
            if self.taken is None and self._no_modules is None:
                self._find(forward, args, kwargs)
        if self._no_modules is not None:
            raise self._no_modules.raised_on(forward(*args, **kwargs))

    def forecast(
        self,
        forward: Forward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        branch: TrackedBranch,
        feature: Sequence[Tensor],
    ) -> Any:
        """Run the network around the skipped modules."""
        with self._bypass.handled_by(self.answers(branch, feature)) as answers:
            output = forward(*args, **kwargs)
        answers.finish()
        return output

    def answers(self, branch: TrackedBranch, feature: Sequence[Tensor]) -> Forecasts:
        """What stands for the modules at a forecast step."""
        return Forecasts(branch.memory["calls"], feature)

    def detach(self) -> None:
        """Stand before no module any more."""
        self._bypass.remove()
        self.taken = self._no_modules = None

    def _choose(self, found: Found, run: Any) -> Taken:
        """The modules to take: features are those that the blocks themselves need."""
        needed = judge(found, self._bypass, run)
        features = {module: name for module, name in found.names.items() if module in needed}
        return Taken(features, tuple(module for module in found.names if module not in needed))

    def _find(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            found = self._prove(forward, args, kwargs)
        except BaseException:
            self.detach()  # unproven modules must not outlive an interrupted proof
            raise
        if isinstance(found, Unproven):
            self.detach()
            self._no_modules = found
        else:
            self.taken = found

    def _prove(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taken | Unproven:
        """The modules to take, or why they cannot be bypassed."""
        kind, instead = type(self._model).__name__, "; use site='last_block' or site='output' for this model"
        if any(is_compiled(part) for part in list(self._model.modules())[1:]):
            return Unproven(f"blocks of {kind} are compiled, so that nothing inside them can be bypassed{instead}")

        def run() -> Any:
            return forward(*args, **kwargs)

        with ModuleFinder(self._model) as finder:
            truth = flatten(run())
        found = finder.found()
        if not found.names:
            return Unproven(f"{kind} has no blocks of attention and MLP modules on tokens{instead}")
        self._bypass.install(found.names)
        try:
            taken = self._choose(found, run)
            with self._bypass.handled_by(ModuleCalls(taken)) as calls:
                again = run()
            with self._bypass.handled_by(Forecasts(calls.calls, calls.feature)):
                bypassed = run()
            if same_bits(truth, flatten(again)) and same_bits(truth, flatten(bypassed)):
                return taken
            reason = f"the attention and MLP modules of {kind}, bypassed by their outputs, do not reproduce its output"
        except torch.OutOfMemoryError:
            raise
        except NoFeatureError as error:
            reason = f"{kind} has no such site: {error}"
        except WRONG_PLACE as error:
            reason = f"{kind} does not run with its attention and MLP modules bypassed ({error})"
        return unproven(f"{reason}{instead}", run)
