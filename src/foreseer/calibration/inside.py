"""Recording features inside the network, at any site but the output."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.attach.accelerate import attach, make_hook
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.site_errors import NoFeatureError
from foreseer.attach.run.tracker import TrackedBranch
from foreseer.attach.sites.base import SiteHook
from foreseer.calibration.record import Trajectory, gram
from foreseer.errors import ForeseerWarning
from foreseer.forecast import Reuse
from foreseer.kernel.parts import Parts
from foreseer.plan import Policy
from foreseer.schedule import Uniform
from foreseer.site import Site

SAMPLED = 2**15  # elements of a tensor that are recorded where a step has many of them


class Inside:
    """The features of each step of a recorded run.

    Attributes:
        trouble: why there is no feature at a step, or ``None``.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self.trouble: str | None = None
        self._trajectory = trajectory
        self._calls: dict[str, dict[int, list[Tensor]]] = {}

    def keep(self, tensors: Sequence[Tensor], names: Sequence[str]) -> None:
        """Take note of the feature of one call at the step that the run has reached.

        Of a feature in parts, so many elements are kept of each tensor as :data:`SAMPLED` says, chosen at random and
        the same at every step: their moments are those of all in expectation, and a network's parts fit no memory.
        """
        step = len(self._trajectory.outputs)
        for tensor, name in zip(tensors, names or [""] * len(tensors), strict=True):
            flat = tensor.detach().reshape(-1)
            if names and flat.numel() > SAMPLED:
                chosen = torch.randint(flat.numel(), (SAMPLED,), generator=torch.Generator().manual_seed(0))
                flat = flat[chosen.to(flat.device)]
            self._calls.setdefault(name, {}).setdefault(step, []).append(flat.clone())

    def parts(self) -> Parts | None:
        """The moments by part, one called "" where the feature has none; ``None`` where a step has no feature.

        Vectors of all the calls of a step, which share their rows, are laid end to end.
        """
        steps, grams = len(self._trajectory.outputs), []
        for name, calls in self._calls.items():
            vectors = [torch.cat(calls[step]) for step in sorted(calls)]
            words = f"the feature of {name}" if name else "the feature"
            if len(vectors) != steps:
                self.trouble = self.trouble or f"{words} was there at {len(vectors)} of {steps} steps"
            elif len({vector.numel() for vector in vectors}) != 1:
                self.trouble = self.trouble or f"{words} changes its shape during a run"
            else:
                grams.append(gram(vectors, vectors))
        return Parts(tuple(self._calls), np.array(grams)) if self.trouble is None else None


class _Recorded:
    """A site whose features are recorded."""

    def __init__(self, site: SiteHook, inside: Inside) -> None:
        self._site = site
        self._inside = inside

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Run the network and remember its feature."""
        try:
            output, tensors = self._site.compute(call, branch)
        except NoFeatureError as error:
            self._inside.trouble = str(error)
            raise
        self._inside.keep(tensors, branch.memory.get("names", ()))
        return output, tensors

    def forecast(self, call: NetworkCall, branch: TrackedBranch, feature: Sequence[Tensor]) -> Any:
        """As the site; every step is computed while it is recorded."""
        return self._site.forecast(call, branch, feature)

    def detach(self) -> None:
        """As the site."""
        self._site.detach()


@contextmanager
def record_inside(pipe: Any, trajectory: Trajectory, site: Site) -> Iterator[Inside]:
    """Record the features at ``site`` of the run that ``trajectory`` records."""
    inside = Inside(trajectory)
    every_step = Policy(Uniform(interval=1), Reuse(), str(site))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeseerWarning)  # told in ``trouble``
        with attach(pipe, every_step, make_site=lambda module: _Recorded(make_hook(site, module), inside)):
            yield inside
