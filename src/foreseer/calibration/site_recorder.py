"""Recording features at sites inside the network."""

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

SAMPLED = 2**15  # elements recorded per tensor if a feature has several parts


class SiteRecorder:
    """Features of each step of a recorded run, by part of the network.

    Attributes:
        trouble: why a step has no feature, or ``None``.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self.trouble: str | None = None
        self._trajectory = trajectory
        self._calls: dict[str, dict[int, list[Tensor]]] = {}

    def keep(self, tensors: Sequence[Tensor], names: Sequence[str]) -> None:
        """Store the feature of one call at the current step of the run.

        If a feature has several parts, which together may exceed the memory, each tensor is subsampled to
        :data:`SAMPLED` elements, chosen at random and equal at every step; the expected moments are unchanged.
        """
        step = len(self._trajectory.outputs)
        for tensor, name in zip(tensors, names or [""] * len(tensors), strict=True):
            flat = tensor.detach().reshape(-1)
            if names and flat.numel() > SAMPLED:
                chosen = torch.randint(flat.numel(), (SAMPLED,), generator=torch.Generator().manual_seed(0))
                flat = flat[chosen.to(flat.device)]
            self._calls.setdefault(name, {}).setdefault(step, []).append(flat.clone())

    def parts(self) -> Parts | None:
        """Return the moments by part; ``None`` if a step has no feature.

        A feature without parts has a single one called "".

        All calls of a step share their rows, so their vectors are concatenated.
        """
        steps, grams = len(self._trajectory.outputs), []
        for name, calls in self._calls.items():
            vectors = [torch.cat(calls[step]) for step in sorted(calls)]
            feature = f"the feature of {name}" if name else "the feature"
            if len(vectors) != steps:
                self.trouble = self.trouble or f"{feature} exists at {len(vectors)} of {steps} steps"
            elif len({vector.numel() for vector in vectors}) != 1:
                self.trouble = self.trouble or f"{feature} changes its shape during a run"
            else:
                grams.append(gram(vectors, vectors))
        return Parts(tuple(self._calls), np.array(grams)) if self.trouble is None else None


class _RecordedSite:
    """A site hook that records its features."""

    def __init__(self, site: SiteHook, recorder: SiteRecorder) -> None:
        self._site = site
        self._recorder = recorder

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Run the network and record its feature."""
        try:
            output, tensors = self._site.compute(call, branch)
        except NoFeatureError as error:
            self._recorder.trouble = str(error)
            raise
        self._recorder.keep(tensors, branch.memory.get("names", ()))
        return output, tensors

    def forecast(self, call: NetworkCall, branch: TrackedBranch, feature: Sequence[Tensor]) -> Any:
        """Forecast with the site; not called while recording, which computes every step."""
        return self._site.forecast(call, branch, feature)

    def detach(self) -> None:
        """Detach the site."""
        self._site.detach()


@contextmanager
def record_site(pipe: Any, trajectory: Trajectory, site: Site) -> Iterator[SiteRecorder]:
    """Record the features at ``site`` of the run that ``trajectory`` records."""
    recorder = SiteRecorder(trajectory)
    every_step = Policy(Uniform(interval=1), Reuse(), str(site))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeseerWarning)  # ``trouble`` has the reason
        with attach(pipe, every_step, make_site=lambda module: _RecordedSite(make_hook(site, module), recorder)):
            yield recorder
