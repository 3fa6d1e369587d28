"""What a site is: where in the network a feature is taken, and how the network goes on from a forecast one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from foreseer.attach.tracker import TrackedBranch

Forward = Callable[..., Any]


class SiteError(RuntimeError):
    """The site cannot serve this call; it must be computed by the whole network."""


class NoFeatureError(RuntimeError):
    """The network ran, but its feature could not be taken.

    Attributes:
        output: what the network returned.
        lasting: whether later runs will meet the same.
    """

    def __init__(self, reason: str, output: Any, lasting: bool = True) -> None:
        super().__init__(reason)
        self.output = output
        self.lasting = lasting


@runtime_checkable
class SiteHook(Protocol):
    """Where a feature is taken, and how the network goes on from a forecast one.

    Locks of sites are reentrant: one broken off on its very last line is held by its own thread, not against it.
    """

    def compute(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], branch: TrackedBranch
    ) -> tuple[Any, list[Tensor]]:
        """Run the network; give its output and the feature.

        Raises:
            NoFeatureError: the network ran, but has no feature here.
        """
        ...

    def forecast(
        self,
        forward: Forward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        branch: TrackedBranch,
        feature: Sequence[Tensor],
    ) -> Any:
        """Give the output that belongs to a forecast ``feature``.

        Raises:
            SiteError: it cannot; the whole network must run.
        """
        ...

    def detach(self) -> None:
        """Remove everything that was put on the model."""
        ...
