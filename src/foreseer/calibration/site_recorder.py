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
from foreseer.errors import ForeseerError, ForeseerWarning
from foreseer.forecast import Reuse
from foreseer.kernel.parts import Parts, tensor_names
from foreseer.plan import Policy
from foreseer.schedule import Uniform
from foreseer.site import Site

SAMPLED = 2**15  # elements recorded per tensor of a feature of several parts of the network


class NoMomentsError(ForeseerError, ValueError):
    """A part of a feature has no moments: it is missing at a step, empty, or changes its shape."""


class SiteRecorder:
    """Features of each step of a recorded run, by part of the network.

    Attributes:
        trouble: why a step has no feature, or ``None``.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self.trouble: str | None = None
        self._trajectory = trajectory
        self._calls: dict[str, dict[int, list[Tensor]]] = {}

    @property
    def complete(self) -> bool:
        """Whether the recorded run has ended."""
        return self._trajectory.complete

    def keep(self, tensors: Sequence[Tensor], names: Sequence[str], most: int | None = None) -> None:
        """Store tensors of one call at the current step of the run, by name.

        Args:
            tensors: to be stored.
            names: of the parts of the feature that they belong to.
            most: elements to store of each. More than that are subsampled, at random and equal at every step, which
                leaves the expected moments unchanged.
        """
        step = len(self._trajectory.outputs)
        for tensor, name in zip(tensors, names, strict=True) if not self._trajectory.complete else ():
            flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().reshape(-1)
            if most is not None and flat.numel() > most:
                chosen = torch.randint(flat.numel(), (most,), generator=torch.Generator().manual_seed(0))
                flat = flat[chosen.to(flat.device)]
            self._calls.setdefault(name, {}).setdefault(step, []).append(flat.clone())

    def parts(self) -> Parts | None:
        """Return the moments by part of the network; ``None`` if a step has no feature.

        A feature without parts has a single one called "". Its further tensors are left out (:meth:`further_tensors`).
        """
        further = self._further
        names = [name for name in self._calls if name not in further]
        try:
            return Parts(tuple(names), np.array([self._gram(name) for name in names])) if self.trouble is None else None
        except NoMomentsError as error:
            self.trouble = str(error)
            return None

    def further_tensors(self) -> Parts | None:
        """Return the moments of the feature's further tensors as the network returned them, if it has any.

        Raises:
            NoMomentsError: a tensor is missing at a step, is empty or changes its shape.
            PartsError: a tensor is not finite.
        """
        names = self._further
        return Parts(names, np.array([self._gram(name) for name in names])) if names else None

    def sampled_tensors(self, *, guided: bool) -> Parts | None:
        """Return the moments of the output's further tensors as they are sampled, if it has any.

        They are what the pipeline passed to copies of its scheduler, if it stepped one copy for each tensor. Otherwise
        they are what the network returned.

        Args:
            guided: whether the pipeline combines several results of the network per step. What the network returned is
                then not what is sampled, and rows fitted to it would have larger errors than shared rows.

        Raises:
            NoMomentsError: as :meth:`further_tensors`, or guided combinations were not passed to a scheduler.
            PartsError: a tensor is not finite.
        """
        names, steps = self._further, len(self._trajectory.outputs)
        copies = [outputs for outputs in self._trajectory.copies if outputs]
        if names and len(copies) == len(names):
            pairs = zip(names, copies, strict=True)
            if all(len(outputs) == steps and self._fits(name, outputs[0]) for name, outputs in pairs):
                return Parts(names, np.array([gram(outputs, outputs) for outputs in copies]))
        if names and (guided or any(len(calls) > 1 for calls in self._calls[names[0]].values())):
            raise NoMomentsError("guidance combines them, and they are not passed to copies of the scheduler")
        return self.further_tensors()

    @property
    def _further(self) -> tuple[str, ...]:
        """Names of the further tensors of the feature that were stored."""
        return tuple(name for name in tensor_names(len(self._calls) + 1)[1:] if name in self._calls)

    def _fits(self, name: str, guided: Tensor) -> bool:
        """Return whether ``guided`` can be a combination of what each call returned for ``name``."""
        return guided.numel() > 0 and all(
            tensor.numel() % guided.numel() == 0 for calls in self._calls[name].values() for tensor in calls
        )

    def _gram(self, name: str) -> np.ndarray:
        """Return the moments of one part. All calls of a step share rows, so their vectors are concatenated."""
        calls, steps = self._calls[name], len(self._trajectory.outputs)
        vectors = [torch.cat(calls[step]) for step in sorted(calls)]
        feature = f"the feature of {name}" if name else "the feature"
        if len(vectors) != steps:
            raise NoMomentsError(f"{feature} exists at {len(vectors)} of {steps} steps")
        if len({vector.numel() for vector in vectors}) != 1 or not vectors[0].numel():
            raise NoMomentsError(f"{feature} is empty or changes its shape during a run")
        return gram(vectors, vectors)


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
            if not self._recorder.complete:
                self._recorder.trouble = str(error)
            raise
        modules = branch.memory.get("names", ())
        self._recorder.keep(tensors, modules or tensor_names(len(tensors)), SAMPLED if modules else None)
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
