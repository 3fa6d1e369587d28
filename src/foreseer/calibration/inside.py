"""Recording features inside the network, at the last block."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foreseer.attach.last_block import LastBlockSite
from foreseer.attach.pipeline import attach
from foreseer.attach.site import Forward, NoFeatureError
from foreseer.attach.tracker import TrackedBranch
from foreseer.calibration.record import Trajectory
from foreseer.errors import ForeseerWarning
from foreseer.forecast import Reuse
from foreseer.plan import Policy
from foreseer.schedule import Uniform


class Inside:
    """What the network's blocks gave at each step of a recorded run.

    Attributes:
        trouble: why there is no feature at a step, or ``None``.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self.trouble: str | None = None
        self._trajectory = trajectory
        self._calls: dict[int, list[Tensor]] = {}

    def keep(self, tensors: list[Tensor]) -> None:
        """Take note of the feature of one call at the step that the run has reached."""
        flat = [tensor.detach().reshape(-1).clone() for tensor in tensors]
        self._calls.setdefault(len(self._trajectory.outputs), []).extend(flat)

    def features(self) -> list[Tensor]:
        """One vector a step: the features of all the calls of a step, which share their rows, end to end."""
        vectors = [torch.cat(self._calls[step]) for step in sorted(self._calls)]
        if self.trouble is None and len(vectors) != len(self._trajectory.outputs):
            self.trouble = f"the blocks ran at {len(vectors)} of {len(self._trajectory.outputs)} steps"
        if self.trouble is None and len({vector.numel() for vector in vectors}) != 1:
            self.trouble = "the feature changes its shape in the course of a run"
        return vectors


class _InsideSite(LastBlockSite):
    def __init__(self, module: nn.Module, inside: Inside) -> None:
        super().__init__(module)
        self._inside = inside

    def compute(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], branch: TrackedBranch
    ) -> tuple[Any, list[Tensor]]:
        """Run the network and remember what its blocks gave."""
        try:
            output, tensors = super().compute(forward, args, kwargs, branch)
        except NoFeatureError as error:
            self._inside.trouble = str(error)
            raise
        self._inside.keep(tensors)
        return output, tensors


@contextmanager
def record_inside(pipe: Any, trajectory: Trajectory) -> Iterator[Inside]:
    """Record the last block's features of the run that ``trajectory`` records."""
    inside = Inside(trajectory)
    every_step = Policy(Uniform(interval=1), Reuse(), "last_block")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeseerWarning)  # told in ``trouble``
        with attach(pipe, every_step, make_site=lambda module: _InsideSite(module, inside)):
            yield inside
