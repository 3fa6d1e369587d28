"""Recording the branches of a guided run, and fitting the coefficients of their combination."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.attach.accelerate import attach
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.run.tracker import TrackedBranch
from foreseer.attach.sites.output import OutputSite
from foreseer.calibration.record import Trajectory, gram
from foreseer.calibration.site_recorder import SiteRecorder
from foreseer.errors import AttachError, ForeseerError, ForeseerWarning
from foreseer.forecast import Reuse
from foreseer.kernel.branches import Branches
from foreseer.kernel.parts import Parts, tensor_names
from foreseer.plan import Policy
from foreseer.schedule import Uniform

ROUNDINGS = 2.0  # tolerance of a combination of branches, in units of their dtype's rounding
LEAST_PART = 1e-3  # smallest coefficient relative to the largest


class NotMixedError(ForeseerError, ValueError):
    """The guided output is not a fixed linear combination of the branches' outputs."""


class BranchRecorder(OutputSite):
    """Output site of a fully computed run that stores each branch's output of each step.

    A run that calls its denoiser only once at the first step has no branches, and nothing is stored.

    Attributes:
        outputs: flattened outputs by branch and step.
        trouble: why the branches cannot be distinguished, or ``None``.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self._trajectory = trajectory
        self.outputs: dict[str, dict[int, Tensor]] = {}
        self._further = SiteRecorder(trajectory)
        self._sizes: set[int] = set()  # of the first tensor
        self.trouble: str | None = None

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Run the network and store its output; branches are of its first tensor."""
        output, tensors = super().compute(call, branch)
        if self._trajectory.complete:
            return output, tensors
        self._further.keep(tensors[1:], tensor_names(len(tensors))[1:])
        self._sizes.update(tensor.numel() for tensor in tensors[:1])
        step = len(self._trajectory.outputs)
        if step > 0 and len(self.outputs) < 2:
            self.outputs.clear()
            return output, tensors
        kept = self.outputs.setdefault(branch.name, {})
        if not tensors or step in kept:
            self.trouble = f"{branch.name} is called more than once per step, or returns no tensor"
            return output, tensors
        kept[step] = tensors[0].detach().reshape(-1).clone()
        return output, tensors

    def features(self) -> dict[str, list[Tensor]]:
        """Return the outputs of all steps by branch; empty if there is only one branch.

        Raises:
            NotMixedError: a branch does not have exactly one output per step.
        """
        if len(self.outputs) < 2:
            return {}
        if self.trouble is not None:
            raise NotMixedError(self.trouble)
        steps = len(self._trajectory.outputs)
        for name, outputs in self.outputs.items():
            if len(outputs) != steps:
                raise NotMixedError(f"{name} is computed at {len(outputs)} of {steps} steps")
        return {name: list(outputs.values()) for name, outputs in self.outputs.items()}

    def further_tensors(self) -> Parts | None:
        """Return the moments of the output's further tensors, if it has any.

        Raises:
            NoMomentsError, PartsError: as :meth:`SiteRecorder.sampled_tensors`.
        """
        batched = self._sizes != {self._trajectory.outputs[0].numel()}
        return self._further.sampled_tensors(guided=batched or len(self.outputs) > 1)

    def branches(self) -> Branches | None:
        """Return the branches of the recorded run; ``None`` if there is only one.

        Raises:
            NotMixedError: guidance does not combine the branches with fixed coefficients.
        """
        features = self.features()
        if not features:
            return None
        mixing = find_mixing(features, self._trajectory.outputs)
        stacked = [feature for outputs in features.values() for feature in outputs]
        return Branches(tuple(features), mixing, gram(stacked, stacked)[None])


@contextmanager
def record_branches(pipe: Any, trajectory: Trajectory) -> Iterator[BranchRecorder]:
    """Record the branches of the run that ``trajectory`` records; none if a policy cannot be attached."""
    recorder = BranchRecorder(trajectory)
    every_step = Policy(Uniform(interval=1), Reuse())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeseerWarning)  # no step is forecast, so failing open costs nothing
        try:
            handle = attach(pipe, every_step, make_site=lambda module: recorder)
        except AttachError:
            yield recorder
            return
        with handle:
            yield recorder


def find_mixing(features: Mapping[str, list[Tensor]], guided: list[Tensor]) -> np.ndarray:
    r"""Fit coefficients k with $\sum_b k_b F^b_i$ equal to the guided outputs, by least squares.

    Args:
        features: flattened outputs of the steps, by branch.
        guided: the outputs passed to the scheduler at these steps, guidance applied.

    Raises:
        NotMixedError: no coefficients reproduce the guided outputs to rounding, or a branch's coefficient is zero.
    """
    names = list(features)
    if any(tensor.numel() != guided[0].numel() for outputs in features.values() for tensor in outputs):
        raise NotMixedError("the guided output and a branch's output differ in size")
    among, with_guided = np.zeros((len(names), len(names))), np.zeros(len(names))
    for step, target in enumerate(guided):
        outputs = [features[name][step] for name in names]
        among += gram(outputs, outputs)
        with_guided += gram(outputs, [target])[:, 0]
    mixing = np.linalg.lstsq(among, with_guided, rcond=1e-12)[0]
    missed, size = 0.0, 0.0
    for step, target in enumerate(guided):
        residual = target.double()
        size += float(residual.square().mean())
        for name, weight in zip(names, mixing, strict=True):
            residual = residual - weight * features[name][step].double()
        missed += float(residual.square().mean())
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in (guided[0], *(features[name][0] for name in names)))
    allowed = ROUNDINGS * rounding * np.sqrt(mixing**2 @ np.diag(among))
    if not np.sqrt(missed) <= allowed:
        raise NotMixedError(
            f"the guided output is not a fixed linear combination of {', '.join(names)} "
            f"(it differs by {np.sqrt(missed / max(size, np.finfo(np.float64).tiny)):.1e})"
        )
    if np.abs(mixing).min() < LEAST_PART * np.abs(mixing).max():
        raise NotMixedError(f"the coefficient of {names[int(np.abs(mixing).argmin())]} in the guided output is zero")
    return mixing
