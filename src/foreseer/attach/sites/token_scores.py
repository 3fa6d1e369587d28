"""Which tokens to recompute: by influence, age and spread (ToCa, arXiv 2410.05317, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from foreseer.site import Tokens

CELL = 4  # neighbours in the sequence, of which the best gets the bonus

_SOFTMAX = {torch.softmax, Tensor.softmax, torch.nn.functional.softmax}


class Influence(TorchFunctionMode):
    """Collects attention maps while a network runs; fused attention makes none.

    Attributes:
        of_keys: per number of keys K, how much each was attended to: shape (N, K), the last map's, N batch times heads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_keys: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SOFTMAX and result.dim() >= 3 and result.shape[-1] == result.shape[-2]:
            self.of_keys[result.shape[-1]] = result.detach().float().sum(-2).flatten(0, -2)
        return result


class TokenScores:
    """Scores of the tokens' rows in the MLPs' outputs, since the last computed step.

    Attributes:
        kind: what influence is measured by.
        fresh: per output, rows computed since: their tokens, shape (B, K), and values, shape (B, K, C).
    """

    def __init__(self, site: Tokens, influence: Mapping[int, Tensor]) -> None:
        self.fresh: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._site = site
        self._of_keys = influence
        self._influence: dict[int, Tensor] = {}
        self._age: dict[int, Tensor] = {}
        self._by_maps = 0

    @property
    def kind(self) -> str:
        """What influence is measured by: attention maps, norms, or either, depending on the module."""
        if not self._by_maps:
            return "the norm of their MLP outputs: fused attention makes no maps"
        if self._by_maps == len(self._influence):
            return "attention maps"
        return "attention maps where the model makes them, else the norm of their MLP outputs"

    def add(self, output: int, tensor: Tensor) -> None:
        """Note an MLP's computed output, shape (B, S, C)."""
        batch, count = tensor.shape[:2]
        attended = self._of_keys.get(count)
        if attended is not None and len(attended) % batch == 0:
            self._by_maps += 1
            influence = attended.reshape(batch, -1, count).mean(1)
        else:
            influence = tensor.detach().float().norm(dim=-1)
        self._influence[output] = influence / influence.mean(1, keepdim=True).clamp_min(1e-12)
        self._age[output] = torch.zeros_like(self._influence[output])
        self.fresh[output] = []

    def knows(self, output: int) -> bool:
        """Whether ``output`` is an MLP's."""
        return output in self._influence

    def grow_older(self) -> None:
        """Count a skipped step."""
        for age in self._age.values():
            age.add_(1.0)

    def choose(self, output: int) -> Tensor:
        """The tokens to recompute, ascending: shape (B, K), K the site's share of them, at least 1."""
        score = self._influence[output] + self._site.age * self._age[output]
        count = score.shape[1]
        cells = torch.nn.functional.pad(score, (0, -count % CELL), value=-math.inf).unflatten(1, (-1, CELL))
        bonus = torch.zeros_like(cells).scatter_(2, cells.argmax(2, keepdim=True), self._site.spread)
        score = score + bonus.flatten(1)[:, :count]
        return score.topk(max(1, math.ceil(self._site.share * count)), dim=1).indices.sort(1).values

    def refresh(self, output: int, index: Tensor, rows: Tensor) -> None:
        """Keep rows computed at this step; older ones of the same tokens are overwritten by them."""
        if index.shape[1] == self._age[output].shape[1]:
            self.fresh[output].clear()
        self.fresh[output].append((index, rows))
        self._age[output].scatter_(1, index, 0.0)
