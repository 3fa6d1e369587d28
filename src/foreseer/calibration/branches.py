"""Recording each branch of a guided run, and finding how guidance combines them."""

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
from foreseer.errors import AttachError, ForeseerError, ForeseerWarning
from foreseer.forecast import Reuse
from foreseer.kernel.branches import Branches
from foreseer.plan import Policy
from foreseer.schedule import Uniform

ROUNDINGS = 2.0  # of the branches' own dtype: what a combination of them may differ by
LEAST_PART = 1e-3  # of the largest coefficient


class NotMixedError(ForeseerError, ValueError):
    """The guided output is no fixed linear combination of the branches' outputs."""


class BranchRecorder(OutputSite):
    """The output site of a run in which every step is computed; keeps each branch's output of each step.

    A run that calls its denoiser once at its first step has no branches, and nothing more is kept of it.

    Attributes:
        outputs: by branch and step, flattened.
        trouble: why the branches cannot be told apart, or ``None``.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        self._trajectory = trajectory
        self.outputs: dict[str, dict[int, Tensor]] = {}
        self.trouble: str | None = None

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Run the network and remember."""
        output, tensors = super().compute(call, branch)
        step = len(self._trajectory.outputs)
        if step > 0 and len(self.outputs) < 2:
            self.outputs.clear()
            return output, tensors
        kept = self.outputs.setdefault(branch.name, {})
        if len(tensors) != 1 or step in kept:
            self.trouble = f"{branch.name} gives more than one tensor a step"
            return output, tensors
        kept[step] = tensors[0].detach().reshape(-1).clone()
        return output, tensors

    def features(self) -> dict[str, list[Tensor]]:
        """By branch, the outputs of all steps; nothing where there is but one branch.

        Raises:
            NotMixedError: a branch has no one output at every step.
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

    def branches(self) -> Branches | None:
        """The branches of the recorded run; ``None`` where there is but one.

        Raises:
            NotMixedError: guidance combines them in another way than by fixed coefficients.
        """
        features = self.features()
        if not features:
            return None
        mixing = find_mixing(features, self._trajectory.outputs)
        together = [feature for outputs in features.values() for feature in outputs]
        return Branches(tuple(features), mixing, gram(together, together)[None])


@contextmanager
def record_branches(pipe: Any, trajectory: Trajectory) -> Iterator[BranchRecorder]:
    """Record the branches of the run that ``trajectory`` records; none where a policy could not be attached."""
    recorder = BranchRecorder(trajectory)
    every_step = Policy(Uniform(interval=1), Reuse())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeseerWarning)  # nothing is forecast: what fails open here loses nothing
        try:
            handle = attach(pipe, every_step, make_site=lambda module: recorder)
        except AttachError:
            yield recorder
            return
        with handle:
            yield recorder


def find_mixing(features: Mapping[str, list[Tensor]], guided: list[Tensor]) -> np.ndarray:
    r"""The coefficients k of $\sum_b k_b F^b_i$, shape (B,), that give the guided outputs, by least squares.

    Args:
        features: by branch, the outputs of the steps, flattened.
        guided: what the scheduler was given at these steps.

    Raises:
        NotMixedError: no coefficients give the guided outputs to rounding, or a branch has no part in them.
    """
    names = list(features)
    if any(one.numel() != guided[0].numel() for outputs in features.values() for one in outputs):
        raise NotMixedError("the guided output has another size than a branch's")
    among, with_guided = np.zeros((len(names), len(names))), np.zeros(len(names))
    for step, target in enumerate(guided):
        these = [features[name][step] for name in names]
        among += gram(these, these)
        with_guided += gram(these, [target])[:, 0]
    mixing = np.linalg.lstsq(among, with_guided, rcond=1e-12)[0]
    missed, size = 0.0, 0.0
    for step, target in enumerate(guided):
        rest = target.double()
        size += float(rest.square().mean())
        for name, weight in zip(names, mixing, strict=True):
            rest = rest - weight * features[name][step].double()
        missed += float(rest.square().mean())
    rounding = max(torch.finfo(one.dtype).eps for one in (guided[0], *(features[name][0] for name in names)))
    allowed = ROUNDINGS * rounding * np.sqrt(mixing**2 @ np.diag(among))
    if not np.sqrt(missed) <= allowed:
        raise NotMixedError(
            f"the guided output is no fixed linear combination of {', '.join(names)} "
            f"(it differs by {np.sqrt(missed / max(size, np.finfo(np.float64).tiny)):.1e})"
        )
    if np.abs(mixing).min() < LEAST_PART * np.abs(mixing).max():
        raise NotMixedError(f"{names[int(np.abs(mixing).argmin())]} has no part in the guided output")
    return mixing
