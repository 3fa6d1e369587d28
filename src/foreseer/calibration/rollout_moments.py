"""Second moments of the features that a rollout has computed so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from foreseer.calibration.record import gram

RIDGE = 1e-6  # of a rollout, relative to the features' mean square


@dataclass
class Student:
    """One calibration prompt, rolled forward.

    Attributes:
        reference: outputs of the full run at this grid's steps, branch by branch: B T tensors.
        targets: per step e, the reference's sample minus the initial noise's share in it.
        names: of the branches in ``reference``, none where they share their rows.
        mixing: how guidance combines them, shape (B,).
        seen: the network's outputs on the perturbed trajectory, by branch and step.
        features: the outputs computed so far, flattened.
    """

    reference: list[Tensor]
    targets: list[Tensor]
    names: tuple[str, ...]
    mixing: Float64[np.ndarray, " B"]
    seen: dict[tuple[str, int], Any] = field(default_factory=dict)
    features: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Share:
    """Inner products of one student's last L features: all that leaves the worker that holds the student.

    Attributes:
        among: shape (L, M), with all its M features so far, the last ones included.
        with_reference: shape (L, B T).
        with_targets: shape (L, T + 1).
        calls: of the network at the last step, shape (1,).
    """

    among: Float64[np.ndarray, "L M"]
    with_reference: Float64[np.ndarray, "L N"]
    with_targets: Float64[np.ndarray, "L T1"]
    calls: Int64[np.ndarray, " 1"]

    @classmethod
    def of(cls, student: Student, count: int, calls: int) -> Share:
        """The inner products of the last ``count`` features, which took ``calls`` of the network."""
        last = student.features[len(student.features) - count :]
        among, with_reference, with_targets = (
            gram(last, others) for others in (student.features, student.reference, student.targets)
        )
        return cls(among, with_reference, with_targets, np.array([calls]))

    def encode(self) -> bytes:
        """The bytes of a safetensors file."""
        from safetensors.numpy import save

        return save({name: np.ascontiguousarray(array) for name, array in vars(self).items()})

    @classmethod
    def decode(cls, content: bytes) -> Share:
        """The inverse of :meth:`encode`."""
        from safetensors.numpy import load

        return cls(**load(content))


@dataclass
class Moments:
    """Moments of the M features computed so far, averaged over prompts; implements ``JointMoments``.

    Attributes:
        matrix: sampler matrix, shape (T + 1, T + 1).
        features: indices of the features, shape (M,): branch b at step i has index b T + i.
        known: moments of the features with each other, shape (M, M).
        with_reference: moments with the branches' reference outputs, shape (M, B T).
        with_targets: moments with the targets, shape (M, T + 1).
    """

    matrix: Float64[np.ndarray, "T1 T1"]
    features: Int64[np.ndarray, " M"]
    known: Float64[np.ndarray, "M M"]
    with_reference: Float64[np.ndarray, "M N"]
    with_targets: Float64[np.ndarray, "M T1"]

    @classmethod
    def none(cls, branches: int, matrix: Float64[np.ndarray, "T1 T1"]) -> Moments:
        """Return the moments before the first step."""
        samples = len(matrix)
        wide = np.zeros((0, branches * (samples - 1)))
        return cls(matrix, np.zeros(0, np.int64), np.zeros((0, 0)), wide, np.zeros((0, samples)))

    def grow(self, shares: Sequence[Share], newest: Sequence[int]) -> None:
        """Add the last features of every student, with indices ``newest``, summed in the order of ``shares``."""
        before, more = self.features.size, len(newest)
        among = np.zeros((more, before + more))
        with_reference = np.zeros((more, self.with_reference.shape[1]))
        with_targets = np.zeros((more, self.with_targets.shape[1]))
        for share in shares:
            among += share.among / len(shares)
            with_reference += share.with_reference / len(shares)
            with_targets += share.with_targets / len(shares)
        self.known = np.block([[self.known, among[:, :before].T], [among]])
        self.with_reference = np.vstack([self.with_reference, with_reference])
        self.with_targets = np.vstack([self.with_targets, with_targets])
        self.features = np.append(self.features, np.asarray(newest, dtype=np.int64))

    def among(self, features: np.ndarray) -> np.ndarray:
        """Return moments of computed features with each other."""
        at = self._at(features)
        return self.known[np.ix_(at, at)]

    def wanted(self, features: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return moments with the reference's features."""
        return self.with_reference[self._at(features)][:, targets]

    def missed(self, features: np.ndarray, forecast: np.ndarray, until: int) -> np.ndarray:
        """Return moments with the difference of the reference's and the student's sample at ``until``."""
        at = self._at(features)
        weights = self.effects(until)[:until] @ forecast[:until][:, self.features]
        return self.with_targets[at, until] - self.known[at] @ weights

    def effects(self, until: int) -> np.ndarray:
        """Return the effect of each step's output on the sample at ``until``: a row of the sampler matrix."""
        return self.matrix[until, 1:]

    def _at(self, features: np.ndarray) -> np.ndarray:
        order = np.argsort(self.features)
        return order[np.searchsorted(self.features, features, sorter=order)]
