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
REGULAR = 1e-12  # share of a sample's mean square below which its error is rounding


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
        target_squares: of the targets themselves, shape (T + 1,).
        calls: of the network at the last step, shape (1,).
    """

    among: Float64[np.ndarray, "L M"]
    with_reference: Float64[np.ndarray, "L N"]
    with_targets: Float64[np.ndarray, "L T1"]
    target_squares: Float64[np.ndarray, " T1"]
    calls: Int64[np.ndarray, " 1"]

    @classmethod
    def of(cls, student: Student, count: int, calls: int) -> Share:
        """The inner products of the last ``count`` features, which took ``calls`` of the network."""
        last = student.features[len(student.features) - count :]
        among, with_reference, with_targets = (
            gram(last, others) for others in (student.features, student.reference, student.targets)
        )
        squares = np.array([gram([target], [target])[0, 0] for target in student.targets])
        return cls(among, with_reference, with_targets, squares, np.array([calls]))

    def without_first(self) -> Share:
        """The share without the first of all features, which is among the last ones."""
        rest = self.with_reference[1:], self.with_targets[1:], self.target_squares, self.calls
        return Share(self.among[1:, 1:], *rest)

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
    """Moments of the M features computed so far, averaged over P prompts, as ``JointMoments``.

    Attributes:
        matrix: sampler matrix, shape (T + 1, T + 1).
        features: indices of the features, shape (M,): branch b at step i has index b T + i, the first sample B T.
        known: each prompt's moments of the features with each other, shape (P, M, M).
        with_reference: moments with the branches' reference outputs, shape (P, M, B T).
        with_targets: moments with the targets, shape (P, M, T + 1).
        target_squares: mean squares of the targets, shape (P, T + 1).
        weights: weight of each prompt in the average, shape (P,).
    """

    matrix: Float64[np.ndarray, "T1 T1"]
    features: Int64[np.ndarray, " M"]
    known: Float64[np.ndarray, "P M M"]
    with_reference: Float64[np.ndarray, "P M N"]
    with_targets: Float64[np.ndarray, "P M T1"]
    target_squares: Float64[np.ndarray, "P T1"]
    weights: Float64[np.ndarray, " P"]

    @classmethod
    def none(cls, branches: int, matrix: Float64[np.ndarray, "T1 T1"], prompts: int) -> Moments:
        """Return the moments before the first step."""
        samples = len(matrix)
        return cls(
            matrix,
            np.zeros(0, np.int64),
            np.zeros((prompts, 0, 0)),
            np.zeros((prompts, 0, branches * (samples - 1))),
            np.zeros((prompts, 0, samples)),
            np.zeros((prompts, samples)),
            np.full(prompts, 1.0 / prompts),
        )

    def grow(self, shares: Sequence[Share], newest: Sequence[int]) -> None:
        """Add the last features of every student, with indices ``newest``."""
        before = self.features.size
        among, with_reference, with_targets, self.target_squares = (
            np.stack([getattr(share, name) for share in shares])
            for name in ("among", "with_reference", "with_targets", "target_squares")
        )
        upper = np.concatenate([self.known, among[:, :, :before].transpose(0, 2, 1)], axis=2)
        self.known = np.concatenate([upper, among], axis=1)
        self.with_reference = np.concatenate([self.with_reference, with_reference], axis=1)
        self.with_targets = np.concatenate([self.with_targets, with_targets], axis=1)
        self.features = np.append(self.features, np.asarray(newest, dtype=np.int64))

    def weigh(self, forecast: np.ndarray, step: int) -> None:
        r"""Weigh prompts by $1 / (e^2 + \operatorname{median} e^2)$, e the error of the sample at ``step``.

        A few prompts' samples may leave the reference for good; without weights their large errors would decide the
        rows of all.
        """
        squares = self.errors(forecast, step)
        inverse = 1.0 / (squares + np.median(squares)) if step else np.ones(squares.size)
        self.weights = inverse / inverse.sum()

    def errors(self, forecast: np.ndarray, step: int) -> Float64[np.ndarray, " P"]:
        """Return the mean square error of each prompt's sample at ``step``."""
        weights = self._of_features(forecast, step)
        products = self.with_targets[:, :, step] @ weights
        squares = self.target_squares[:, step] - 2.0 * products + (self.known @ weights) @ weights
        return np.maximum(squares, REGULAR * self.target_squares[:, step].mean())

    def among(self, features: np.ndarray) -> np.ndarray:
        """Return moments of computed features with each other."""
        at = self._at(features)
        return np.tensordot(self.weights, self.known[:, at[:, None], at], 1)

    def wanted(self, features: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return moments with the reference's features."""
        return np.tensordot(self.weights, self.with_reference[:, self._at(features)], 1)[:, targets]

    def missed(self, features: np.ndarray, forecast: np.ndarray, until: int) -> np.ndarray:
        """Return moments with the difference of the reference's and the student's sample at ``until``."""
        at = self._at(features)
        differences = self.with_targets[:, at, until] - self.known[:, at] @ self._of_features(forecast, until)
        return self.weights @ differences

    def effects(self, until: int) -> np.ndarray:
        """Return the effect of each step's output on the sample at ``until``: a row of the sampler matrix."""
        return self.matrix[until, 1:]

    def _of_features(self, forecast: np.ndarray, until: int) -> np.ndarray:
        """Return the effect of each computed feature on the sample at ``until``, shape (M,)."""
        return self.effects(until)[:until] @ forecast[:until][:, self.features]

    def _at(self, features: np.ndarray) -> np.ndarray:
        order = np.argsort(self.features)
        return order[np.searchsorted(self.features, features, sorter=order)]
