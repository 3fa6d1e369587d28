"""The token site: at skipped steps a share of the tokens goes through the MLPs, the rest and attention are forecast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.bypass import WRONG_PLACE
from foreseer.attach.containers import flatten
from foreseer.attach.hooks import Forward
from foreseer.attach.judge import judge
from foreseer.attach.module_finder import Found
from foreseer.attach.modules import Forecasts, ModuleSite, Passed, Taken
from foreseer.attach.site import NoFeatureError
from foreseer.attach.token_scores import Influence, Scores
from foreseer.attach.tracker import TrackedBranch
from foreseer.site import Tokens


class TokenSite(ModuleSite):
    """As :class:`foreseer.attach.modules.ModuleSite`, but that the MLPs take some tokens at skipped steps.

    A module is an MLP if it is token-wise: given some of its tokens alone, it gives these tokens' rows. That is tried
    on the first computed call.
    """

    def __init__(self, model: nn.Module, site: Tokens) -> None:
        super().__init__(model)
        self._site = site
        self._tokenwise: frozenset[nn.Module] = frozenset()
        self._partial: frozenset[nn.Module] = frozenset()
        self._block_of: dict[nn.Module, int] = {}

    def compute(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], branch: TrackedBranch
    ) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is what its modules gave."""
        self.find(forward, args, kwargs)
        with Influence() as influence:
            output, feature = super().compute(forward, args, kwargs, branch)
        calls: list[Passed] = branch.memory["calls"]
        scores = Scores(self._site, influence.of_keys)
        for call in calls:
            if call.module in self._tokenwise and call.count:
                scores.add(call.first, feature[call.first])
        branch.memory["scores"], branch.memory["skipped"] = scores, 0
        branch.memory["note"] = f"tokens chosen by {scores.kind}"
        return output, feature

    def answers(self, branch: TrackedBranch, feature: Sequence[Tensor]) -> Forecasts:
        """What stands for the modules: MLPs take some tokens, at each skipped step or at every second."""
        branch.memory["skipped"] += 1
        branch.memory["scores"].grow_older()
        calls: list[Passed] = branch.memory["calls"]
        if self._site.alternate and branch.memory["skipped"] % 2:
            return _Refreshing(calls, feature, branch.memory["scores"], frozenset(), self._block_of)
        return _Refreshing(calls, feature, branch.memory["scores"], self._tokenwise, self._block_of)

    def _choose(self, found: Found, run: Any) -> Taken:
        """The modules to take: what MLPs need beside their own input is a feature too."""
        test = _TokenwiseTest()
        with self._bypass.handled_by(test):
            run()
        tokenwise = {module for module, passed in test.passed.items() if passed}
        added = judge(found, self._bypass, run)
        needed = judge(found, self._bypass, run, running=tokenwise)
        features = {
            module: name for module, name in found.names.items() if module in (added if module in tokenwise else needed)
        }
        if not tokenwise & set(features):
            raise NoFeatureError("none of its modules works on each token alone", None)
        self._tokenwise = frozenset(tokenwise & needed)
        self._partial = frozenset(self._tokenwise - set(features))
        self._block_of = {module: index for index, block in enumerate(found.blocks) for module in found.modules[block]}
        return Taken(features, tuple(module for module in found.names if module not in features))


class _Refreshing(Forecasts):
    """Forecasts, in which some tokens' rows are the MLPs' true ones; these stay until the next computed step."""

    def __init__(
        self,
        calls: list[Passed],
        feature: Sequence[Tensor],
        scores: Scores,
        running: frozenset[nn.Module],
        block_of: dict[nn.Module, int],
    ) -> None:
        super().__init__(calls, feature)
        self._scores = scores
        self._running = running
        self._block_of = block_of
        self._chosen: dict[tuple[int, int], Tensor] = {}

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module's forecast output, some rows computed."""
        call = self.next(module)
        if module not in self._running:
            return self.answer(call)
        tokens = tokens_of(args, kwargs)
        assert tokens is not None
        index = self._index(call, tokens)
        rows = call_with(forward, args, kwargs, take(tokens, index))
        if not call.count:
            return put(rows.new_zeros(*tokens.shape[:2], rows.shape[-1]), index, rows)
        self._scores.refresh(call.first, index, rows)
        return self.answer(call)

    def answer(self, call: Passed) -> Any:
        """The forecast, in which the rows refreshed since the last computed step are put."""
        if not call.count or not self._scores.knows(call.first):
            return super().answer(call)
        output = self.feature[call.first]
        for index, rows in self._scores.fresh[call.first]:
            output = put(output, index, rows)
        return output

    def _index(self, call: Passed, tokens: Tensor) -> Tensor:
        """The tokens of this step: those that an MLP of several modules began with, else those of the best score."""
        key = self._block_of[call.module], tokens.shape[1]
        if call.count:
            found = self._chosen.get(key)
            return found if found is not None else self._scores.choose(call.first)
        if key not in self._chosen:
            self._chosen[key] = self._scores.choose(self._ahead(call, key[0]))
        return self._chosen[key]

    def _ahead(self, call: Passed, block: int) -> int:
        """The feature that a module without one of its own works for."""
        for later in self.calls[self.position :]:
            if later.count and self._block_of[later.module] == block and self._scores.knows(later.first):
                return later.first
        raise AssertionError("a module that is needed feeds another")


@dataclass
class _TokenwiseTest:
    """Runs each module also on half of its tokens, in reverse, and compares.

    Attributes:
        passed: per module, whether all its calls gave the same rows to rounding.
    """

    passed: dict[nn.Module, bool] = field(default_factory=dict)

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module and try it."""
        output = forward(*args, **kwargs)
        tokens = tokens_of(args, kwargs)
        same = False
        if tokens is not None and isinstance(output, Tensor) and output.dim() == 3:
            half = torch.arange(tokens.shape[1] - 1, -1, -2, device=tokens.device)
            try:
                some = call_with(forward, args, kwargs, tokens[:, half])
                same = some.shape[1] == half.numel() and _close(some, output[:, half])
            except torch.OutOfMemoryError:
                raise
            except WRONG_PLACE:
                same = False
        self.passed[module] = same and self.passed.get(module, True)
        return output


def _close(found: Tensor, truth: Tensor) -> bool:
    error, size = (found.float() - truth.float()).norm(), truth.float().norm()
    return found.shape == truth.shape and bool(error <= math.sqrt(torch.finfo(truth.dtype).eps) * size)


def tokens_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The only tensor among the arguments, where it is one of tokens, shape (B, S, C)."""
    try:
        tensors = flatten([args, kwargs])
    except TypeError:
        return None
    return tensors[0] if len(tensors) == 1 and tensors[0].dim() == 3 and tensors[0].shape[1] > 1 else None


def call_with(forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], tokens: Tensor) -> Any:
    """Call with ``tokens`` in the place of the only tensor."""
    others = {name: tokens if isinstance(value, Tensor) else value for name, value in kwargs.items()}
    return forward(*(tokens if isinstance(value, Tensor) else value for value in args), **others)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens of shape (B, K, C) that ``index`` of shape (B, K) names."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def put(tokens: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """``tokens`` with the rows that ``index`` names replaced, in place."""
    return tokens.scatter_(1, index[..., None].expand(-1, -1, rows.shape[-1]), rows)
