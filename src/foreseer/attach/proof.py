"""What it takes to prove a site on a network: equal bits, and a network that gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreseer.attach.containers import UnknownContainerError, flatten
from foreseer.attach.site import NoFeatureError

NOT_FINITE = "the network's output is not finite, and nothing can be proved on it"
NOT_REPEATED = "called twice with the same input, the network gives other numbers: nothing can be proved on it"


def same_bits(truth: list[Tensor], found: list[Tensor]) -> bool:
    """Whether both hold equal tensors."""
    return len(truth) == len(found) and all(torch.equal(a, b) for a, b in zip(truth, found, strict=True))


@dataclass(frozen=True)
class Unproven:
    """Why a site could not be proved on a network.

    Attributes:
        reason: in words.
        lasting: whether later runs will meet the same.
    """

    reason: str
    lasting: bool = True

    def raised_on(self, output: Any) -> NoFeatureError:
        """The error that says so."""
        return NoFeatureError(self.reason, output, self.lasting)


def unproven(reason: str, run: Callable[[], Any]) -> Unproven:
    """``reason``, unless the network does not give the same finite numbers twice: then nothing can be proved on it."""
    try:
        first, second = flatten(run()), flatten(run())
    except UnknownContainerError:
        return Unproven(reason)
    if not all(bool(torch.isfinite(one).all()) for one in (*first, *second)):
        return Unproven(NOT_FINITE, lasting=False)
    if not same_bits(first, second):
        return Unproven(NOT_REPEATED)
    return Unproven(reason)
