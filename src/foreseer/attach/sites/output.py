"""The output site: the whole network is skipped and its output forecast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import UnknownContainerError, flatten, is_alike, rebuild, strip
from foreseer.attach.network.site_errors import NoFeatureError

if TYPE_CHECKING:
    from foreseer.attach.run.tracker import TrackedBranch


class OutputSite:
    """The feature is the network's output, in whatever container it is returned."""

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is its output."""
        output = call.run()
        return output, self.take(output, branch)

    def take(self, output: Any, branch: TrackedBranch) -> list[Tensor]:
        """The feature of an output that the network returned.

        Raises:
            NoFeatureError: the output is in a container that cannot be rebuilt.
        """
        try:
            tensors = flatten(output)
            if not is_alike(branch.memory.get("output"), output):
                branch.memory["output"] = strip(output)
        except UnknownContainerError as error:
            raise NoFeatureError(str(error), output) from error
        return tensors

    def forecast(self, call: NetworkCall, branch: TrackedBranch, feature: Sequence[Tensor]) -> Any:
        """The forecast, in the container that the network last returned."""
        template = branch.memory["output"]
        if isinstance(template, Tensor):
            return feature[0]
        if type(template) is tuple and len(template) == 1 and isinstance(template[0], Tensor):
            return (feature[0],)
        return rebuild(template, iter(feature))

    def detach(self) -> None:
        """Nothing was put on the model."""
