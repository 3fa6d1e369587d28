"""Interface of a site: where a feature is taken, and how the network continues from a forecast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from foreseer.attach.network.call import NetworkCall

if TYPE_CHECKING:
    from foreseer.attach.run.tracker import TrackedBranch


@runtime_checkable
class SiteHook(Protocol):
    """Feature extraction and forecast calls at one site of one network.

    Locks of sites are reentrant: if an interrupt leaves a lock held, its thread can still acquire it.
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
