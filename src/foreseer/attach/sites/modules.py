"""The module site: forecast every attention and MLP output, and run the rest of each block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foreseer.attach.interception import is_compiled
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import flatten, rebuild, strip
from foreseer.attach.network.interceptor import LEFT_OUT, WRONG_PLACE, Interceptor, check_all_called, placeholder
from foreseer.attach.network.module_finder import FoundModules, ModuleFinder
from foreseer.attach.network.required_modules import required_modules
from foreseer.attach.network.site_errors import NoFeatureError, SiteError
from foreseer.attach.network.verification import Unsupported, cannot_rehearse, copied, same_bits, unsupported

if TYPE_CHECKING:
    from foreseer.attach.run.tracker import TrackedBranch


@dataclass
class SkippedModules:
    """Which modules of a network are skipped.

    Attributes:
        features: modules whose outputs are forecast, by their path in the network.
        idle: modules whose outputs only the others need; they are skipped with placeholders.
    """

    features: dict[nn.Module, str]
    idle: tuple[nn.Module, ...]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All of them."""
        return (*self.features, *self.idle)


@dataclass
class ModuleOutput:
    """One call of a module: the container of its output, and where its tensors are in the feature."""

    module: nn.Module
    template: Any
    first: int
    count: int


@dataclass
class ModuleCapture:
    """Handler that runs the modules, and collects their outputs as the feature.

    Attributes:
        skipped: the modules.
        outputs: their calls, in order.
        feature: the tensors.
        names: the module that each tensor is from; further calls of a module within a step get a number.
    """

    skipped: SkippedModules
    outputs: list[ModuleOutput] = field(default_factory=list)
    feature: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    _counts: dict[nn.Module, int] = field(default_factory=dict)

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """Run a module."""
        output = call.run()
        name = self.skipped.features.get(module)
        if name is None:
            self.outputs.append(ModuleOutput(module, placeholder(output), 0, 0))
            return output
        tensors = flatten(output)
        count = self._counts[module] = self._counts.get(module, 0) + 1
        self.outputs.append(ModuleOutput(module, strip(output), len(self.feature), len(tensors)))
        self.feature.extend(tensors)
        self.names.extend([name if count == 1 else f"{name} {count}"] * len(tensors))
        return output


@dataclass
class ModuleForecasts:
    """Handler that returns forecasts of the modules' outputs, in the order of the last computed step."""

    outputs: list[ModuleOutput]
    feature: Sequence[Tensor]
    position: int = 0

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """A module's forecast output."""
        return self.answer(self.next(module))

    def next(self, module: nn.Module) -> ModuleOutput:
        """The recorded output that this call of ``module`` corresponds to.

        Raises:
            SiteError: another module was expected.
        """
        if self.position >= len(self.outputs) or self.outputs[self.position].module is not module:
            raise SiteError("the network called its modules in another order than when it was last computed")
        self.position += 1
        return self.outputs[self.position - 1]

    def finish(self) -> None:
        """Check that all modules were called.

        Raises:
            SiteError: some were not.
        """
        check_all_called(self.position, self.outputs)

    def answer(self, output: ModuleOutput) -> Any:
        """The forecast in the container of the recorded output."""
        tensors = (self.feature[index] for index in range(output.first, output.first + output.count))
        return rebuild(output.template, tensors) if output.count else output.template


class ModuleSite:
    """Site whose feature is the outputs of the attention and MLP modules.

    Norms, modulation and additions run at each step.

    The modules are found on the first computed call and verified there: the network runs again with each of them
    replaced by its own true output, and its output must be equal to the last bit. A network for which that fails is
    computed at every step, and the record says so.
    """

    def __init__(self, model: nn.Module) -> None:
        self.skipped: SkippedModules | None = None
        self._model = model
        self._unsupported: Unsupported | None = None
        self._interceptor = Interceptor(model)
        self._lock = threading.RLock()

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is what its modules returned."""
        self.find(call)
        assert self.skipped is not None
        with self._interceptor.handled_by(ModuleCapture(self.skipped)) as captured:
            output = call.run()
        self._interceptor.check_in_place(output)
        if not captured.outputs:
            raise NoFeatureError(LEFT_OUT, output)
        if branch.memory.setdefault("names", captured.names) != captured.names:
            raise NoFeatureError("the network called other modules than at the step computed before", output)
        branch.memory["outputs"] = captured.outputs
        return output, captured.feature

    def find(self, call: NetworkCall) -> None:
        """Find the modules, unless that was tried already.

        Raises:
            NoFeatureError: the network has none that can be skipped; it has run.
        """
        with self._lock:
            if self.skipped is None and self._unsupported is None:
                self._find(call)
        if self._unsupported is not None:
            raise self._unsupported.raised_on(call.run())

    def forecast(self, call: NetworkCall, branch: TrackedBranch, feature: Sequence[Tensor]) -> Any:
        """Run the network around the skipped modules."""
        with self._interceptor.handled_by(self.forecasts(branch, feature)) as handler:
            output = call.rehearse()
        handler.finish()
        return output

    def forecasts(self, branch: TrackedBranch, feature: Sequence[Tensor]) -> ModuleForecasts:
        """The handler of a forecast step."""
        return ModuleForecasts(branch.memory["outputs"], feature)

    def detach(self) -> None:
        """Restore the modules."""
        self._interceptor.remove()
        self.skipped = self._unsupported = None

    def _choose(self, found: FoundModules, run: Callable[[], Any]) -> SkippedModules:
        """The modules to skip; the feature is made of those that the blocks themselves need."""
        required = required_modules(found, self._interceptor, run)
        features = {module: name for module, name in found.names.items() if module in required}
        return SkippedModules(features, tuple(module for module in found.names if module not in required))

    def _find(self, call: NetworkCall) -> None:
        try:
            result = cannot_rehearse(call) or self._verify(call)
        except BaseException:
            self.detach()  # unverified modules must not outlive an interrupted verification
            raise
        if isinstance(result, Unsupported):
            self.detach()
            self._unsupported = result
        else:
            self.skipped = result

    def _verify(self, call: NetworkCall) -> SkippedModules | Unsupported:
        """The modules to skip, or why they cannot be skipped."""
        kind, remedy = type(self._model).__name__, "; use site='last_block' or site='output' for this model"
        if any(is_compiled(part) for part in list(self._model.modules())[1:]):
            return Unsupported(f"blocks of {kind} are compiled, so that nothing inside them can be skipped{remedy}")
        with ModuleFinder(self._model) as finder:
            output = call.rehearse()
        found = finder.found()
        if not found.names:
            return Unsupported(f"{kind} has no blocks of attention and MLP modules on tokens{remedy}")
        self._interceptor.install(found.names)
        try:
            expected = copied(output)
            skipped = self._choose(found, call.rehearse)
            with self._interceptor.handled_by(ModuleCapture(skipped)) as captured:
                again = call.rehearse()
            with self._interceptor.handled_by(ModuleForecasts(captured.outputs, captured.feature)):
                replayed = call.rehearse()
            if same_bits(expected, flatten(again)) and same_bits(expected, flatten(replayed)):
                return skipped
            reason = f"the attention and MLP modules of {kind}, replaced by their outputs, do not reproduce its output"
        except torch.OutOfMemoryError:
            raise
        except NoFeatureError as error:
            reason = f"{kind} has no such site: {error}"
        except WRONG_PLACE as error:
            reason = f"{kind} does not run with its attention and MLP modules skipped ({error})"
        return unsupported(f"{reason}{remedy}", call.rehearse)
