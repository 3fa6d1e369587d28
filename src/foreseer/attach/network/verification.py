"""Verifying a site on a network: equal bits, and a network that reproduces them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import UnknownContainerError, flatten
from foreseer.attach.network.site_errors import NoFeatureError

NOT_FINITE = "the network's output is not finite, so that nothing can be verified on it"
NOT_REPEATED = "called twice with the same input, the network returns different numbers: nothing can be verified on it"


def copied(output: Any) -> list[Tensor]:
    """Return copies of an output's tensors, into whose memory the network may write at its next call."""
    return [tensor.clone() for tensor in flatten(output)]


def same_bits(expected: list[Tensor], actual: list[Tensor]) -> bool:
    """Whether both lists hold equal tensors."""
    return len(expected) == len(actual) and all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


@dataclass(frozen=True)
class Unsupported:
    """Why a network does not support a site.

    Attributes:
        reason: the reason.
        lasting: whether later runs will meet it too.
    """

    reason: str
    lasting: bool = True

    def raised_on(self, output: Any) -> NoFeatureError:
        """The error to raise once the network has returned ``output``."""
        return NoFeatureError(self.reason, output, self.lasting)


def unsupported(reason: str, run: Callable[[], Any]) -> Unsupported:
    """Return why a site is unsupported: ``reason``, or outputs that are not finite or not repeatable.

    The network runs twice to check its outputs.
    """
    try:
        first, second = copied(run()), flatten(run())
    except UnknownContainerError:
        return Unsupported(reason)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (*first, *second)):
        return Unsupported(NOT_FINITE, lasting=False)
    if not same_bits(first, second):
        return Unsupported(NOT_REPEATED)
    return Unsupported(reason)


def cannot_rehearse(call: NetworkCall) -> Unsupported | None:
    """Return why a call cannot be repeated to verify a site, ``None`` if it can."""
    stateful = call.stateful_argument()
    if stateful is None:
        return None
    reason = f"the network is given a {stateful}, which may keep state; use site='output' for this model"
    return Unsupported(reason, lasting=False)  # later runs may be called without it
