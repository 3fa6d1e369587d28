"""The output site: the whole forward is bypassed and its output forecast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from foreseer.attach.containers import UnknownContainerError, flatten, is_alike, rebuild, strip
from foreseer.attach.site import Forward, NoFeatureError
from foreseer.attach.tracker import TrackedBranch


class OutputSite:
    """The feature is the network's output, in whatever container it comes."""

    def compute(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], branch: TrackedBranch
    ) -> tuple[Any, list[Tensor]]:
        """Run the network; the feature is its output."""
        output = forward(*args, **kwargs)
        try:
            tensors = flatten(output)
            if not is_alike(branch.memory.get("output"), output):
                branch.memory["output"] = strip(output)
        except UnknownContainerError as error:
            raise NoFeatureError(str(error), output) from error
        return output, tensors

    def forecast(
        self,
        forward: Forward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        branch: TrackedBranch,
        feature: Sequence[Tensor],
    ) -> Any:
        """The forecast in the container that the network last used."""
        return rebuild(branch.memory["output"], iter(feature))

    def detach(self) -> None:
        """Nothing was put on the model."""
