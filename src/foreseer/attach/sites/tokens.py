"""The token site: at skipped steps, MLPs process some of the tokens; everything else is forecast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import flatten
from foreseer.attach.network.interceptor import WRONG_PLACE
from foreseer.attach.network.module_finder import FoundModules
from foreseer.attach.network.required_modules import required_modules
from foreseer.attach.network.site_errors import NoFeatureError
from foreseer.attach.sites.modules import ModuleForecasts, ModuleOutput, ModuleSite, SkippedModules
from foreseer.attach.sites.token_scores import Influence, TokenScores
from foreseer.site import Tokens

if TYPE_CHECKING:
    from foreseer.attach.run.tracker import TrackedBranch


class TokenSite(ModuleSite):
    """The module site, with MLPs that process some of the tokens at skipped steps.

    A module is an MLP if it is token-wise: given some of its tokens alone, it returns the rows of these tokens. That is
    tested on the first computed call.
    """

    def __init__(self, model: nn.Module, site: Tokens) -> None:
        super().__init__(model)
        self._site = site
        self._tokenwise: frozenset[nn.Module] = frozenset()
        self._block_of: dict[nn.Module, int] = {}

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is what its modules returned."""
        self.find(call)
        with Influence() as influence:
            output, feature = super().compute(call, branch)
        outputs: list[ModuleOutput] = branch.memory["outputs"]
        scores = TokenScores(self._site, influence.of_keys)
        for module_output in outputs:
            if module_output.module in self._tokenwise and module_output.count:
                scores.add(module_output.first, feature[module_output.first])
        branch.memory["scores"], branch.memory["skipped"] = scores, 0
        branch.memory["note"] = f"tokens chosen by {scores.kind}"
        return output, feature

    def forecasts(self, branch: TrackedBranch, feature: Sequence[Tensor]) -> ModuleForecasts:
        """Return the handler of a forecast step.

        MLPs process some tokens at every skipped step, or at every second one if the site alternates.
        """
        branch.memory["skipped"] += 1
        branch.memory["scores"].grow_older()
        rests = self._site.alternate and branch.memory["skipped"] % 2
        running: frozenset[nn.Module] = frozenset() if rests else self._tokenwise
        return _RefreshedForecasts(branch.memory["outputs"], feature, branch.memory["scores"], running, self._block_of)

    def _choose(self, found: FoundModules, run: Callable[[], Any]) -> SkippedModules:
        """Return the modules to skip.

        Module outputs that the MLPs need besides their input are part of the feature too.
        """
        test = _TokenwiseTest()
        with self._interceptor.handled_by(test):
            run()
        tokenwise = {module for module, passed in test.passed.items() if passed}
        added = required_modules(found, self._interceptor, run)
        required = required_modules(found, self._interceptor, run, running=tokenwise)
        features = {
            module: name
            for module, name in found.names.items()
            if module in (added if module in tokenwise else required)
        }
        if not tokenwise & set(features):
            raise NoFeatureError("none of its modules works on each token alone", None)
        self._tokenwise = frozenset(tokenwise & required)
        self._block_of = {module: index for index, block in enumerate(found.blocks) for module in found.modules[block]}
        return SkippedModules(features, tuple(module for module in found.names if module not in features))


class _RefreshedForecasts(ModuleForecasts):
    """Handler that forecasts module outputs and computes the rows of some tokens.

    Computed rows are reused until the next computed step.
    """

    def __init__(
        self,
        outputs: list[ModuleOutput],
        feature: Sequence[Tensor],
        scores: TokenScores,
        running: frozenset[nn.Module],
        block_of: dict[nn.Module, int],
    ) -> None:
        super().__init__(outputs, feature)
        self._scores = scores
        self._running = running
        self._block_of = block_of
        self._chosen: dict[tuple[int, int], Tensor] = {}

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """Return a module's forecast output, with some rows computed."""
        output = self.next(module)
        if module not in self._running:
            return self.answer(output)
        tokens = tokens_of(call)
        assert tokens is not None
        index = self._index(output, tokens)
        rows = call_with(call, take(tokens, index))
        if not output.count:
            return put(rows.new_zeros(*tokens.shape[:2], rows.shape[-1]), index, rows)
        self._scores.refresh(output.first, index, rows)
        return self.answer(output)

    def answer(self, output: ModuleOutput) -> Any:
        """Return the forecast with the rows computed since the last computed step inserted."""
        if not output.count or not self._scores.knows(output.first):
            return super().answer(output)
        forecast = self.feature[output.first]
        for index, rows in self._scores.fresh[output.first]:
            forecast = put(forecast, index, rows)
        return forecast

    def _index(self, output: ModuleOutput, tokens: Tensor) -> Tensor:
        """Return the indices of the tokens to compute: those with the highest scores.

        In an MLP of several modules, all use the tokens chosen for the first.
        """
        key = self._block_of[output.module], tokens.shape[1]
        if output.count:
            chosen = self._chosen.get(key)
            return chosen if chosen is not None else self._scores.choose(output.first)
        if key not in self._chosen:
            self._chosen[key] = self._scores.choose(self._ahead(key[0]))
        return self._chosen[key]

    def _ahead(self, block: int) -> int:
        """Return the index of the next feature in ``block``.

        It is needed for a module whose output is not a feature, but the input of a later module.
        """
        for later in self.outputs[self.position :]:
            if later.count and self._block_of[later.module] == block and self._scores.knows(later.first):
                return later.first
        raise AssertionError("a required module feeds another")


@dataclass
class _TokenwiseTest:
    """Handler that runs each module also on half of its tokens, in reverse, and compares.

    Attributes:
        passed: per module, whether all its calls returned the same rows to rounding.
    """

    passed: dict[nn.Module, bool] = field(default_factory=dict)

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """Run a module and test it."""
        output = call.run()
        tokens = tokens_of(call)
        same = False
        if tokens is not None and isinstance(output, Tensor) and output.dim() == 3:
            half = torch.arange(tokens.shape[1] - 1, -1, -2, device=tokens.device)
            try:
                some = call_with(call, tokens[:, half])
                same = some.shape[1] == half.numel() and _close(some, output[:, half])
            except torch.OutOfMemoryError:
                raise
            except WRONG_PLACE:
                same = False
        self.passed[module] = same and self.passed.get(module, True)
        return output


def _close(actual: Tensor, expected: Tensor) -> bool:
    error, size = (actual.float() - expected.float()).norm(), expected.float().norm()
    return actual.shape == expected.shape and bool(error <= math.sqrt(torch.finfo(expected.dtype).eps) * size)


def tokens_of(call: NetworkCall) -> Tensor | None:
    """The only tensor among the arguments if it holds tokens, shape (B, S, C), else ``None``."""
    try:
        tensors = flatten([call.args, call.kwargs])
    except TypeError:
        return None
    return tensors[0] if len(tensors) == 1 and tensors[0].dim() == 3 and tensors[0].shape[1] > 1 else None


def call_with(call: NetworkCall, tokens: Tensor) -> Any:
    """The module's output for ``tokens`` in place of the only tensor."""
    kwargs = {name: tokens if isinstance(value, Tensor) else value for name, value in call.kwargs.items()}
    return call.forward(*(tokens if isinstance(value, Tensor) else value for value in call.args), **kwargs)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens of shape (B, K, C) selected by ``index`` of shape (B, K)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def put(tokens: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """``tokens`` with the rows at ``index`` replaced, in place."""
    return tokens.scatter_(1, index[..., None].expand(-1, -1, rows.shape[-1]), rows)
