"""What a site is: where in the network a feature is taken, and how the network continues from a forecast one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from foreseer.attach.network.call import NetworkCall

if TYPE_CHECKING:
    from foreseer.attach.run.tracker import TrackedBranch


@runtime_checkable
class SiteHook(Protocol):
    """Takes features at one site of one network.

    Locks of sites are reentrant: a lock whose owner was interrupted on its last line is held by its own thread.
    """

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Run the network; return its output and the feature.

        Raises:
            NoFeatureError: the network ran, but has no feature here.
        """
        ...

    def forecast(self, call: NetworkCall, branch: TrackedBranch, feature: Sequence[Tensor]) -> Any:
        """Return the output that belongs to a forecast ``feature``.

        Raises:
            SiteError: it cannot; the whole network must run.
        """
        ...

    def detach(self) -> None:
        """Remove everything that was put on the model."""
        ...
