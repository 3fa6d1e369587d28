"""What a rollout learns from: moments of the computed features so far, and the rows that they give a segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from foreseer.calibration.record import gram
from foreseer.forecast.kernel import OWN, ridge_solve, solve_branches


@dataclass
class Student:
    """One calibration prompt, rolled forward.

    Attributes:
        prompt: its words.
        seed: of its initial noise.
        reference: outputs of the full run at this grid's steps, of each of the B branches after the other: B T tensors.
        targets: for each step e, the reference's sample there less the initial noise's share in it.
        seen: the network's outputs on the perturbed trajectory, by branch and step.
        features: for each computed step so far, the output of every branch.
    """

    prompt: str
    seed: int
    reference: list[Tensor]
    targets: list[Tensor]
    seen: dict[tuple[str, int], object] = field(default_factory=dict)
    features: list[list[Tensor]] = field(default_factory=list)


@dataclass
class Moments:
    """Inner products of the K computed features of B branches so far, pooled over students.

    Attributes:
        among: shape (B, K, B, K), among themselves.
        with_reference: shape (B, K, B, T), with the branches' references.
        with_targets: shape (B, K, T + 1), with the targets.
    """

    among: Float64[np.ndarray, "B K B K"]
    with_reference: Float64[np.ndarray, "B K B T"]
    with_targets: Float64[np.ndarray, "B K T1"]

    @classmethod
    def none(cls, branches: int, steps: int) -> Moments:
        """Before the first step."""
        shapes = (branches, 0, branches, 0), (branches, 0, branches, steps), (branches, 0, steps + 1)
        return cls(*(np.zeros(shape) for shape in shapes))

    def grown(self, students: Sequence[Student]) -> Moments:
        """With the newest features of every student."""
        branches, known, _, steps = self.with_reference.shape
        newest = np.zeros((branches, (known + 1) * branches))
        with_reference = np.zeros((branches, branches * steps))
        with_targets = np.zeros((branches, steps + 1))
        for student in students:
            last, so_far = student.features[-1], [one for features in student.features for one in features]
            newest += gram(last, so_far) / len(students)
            with_reference += gram(last, student.reference) / len(students)
            with_targets += gram(last, student.targets) / len(students)
        newest = newest.reshape(branches, known + 1, branches)
        among = np.zeros((branches, known + 1) * 2)
        among[:, :known, :, :known] = self.among
        among[:, known] = newest.transpose(0, 2, 1)
        among[:, :, :, known] = newest.transpose(2, 1, 0)
        reference = with_reference.reshape(branches, 1, branches, steps)
        return Moments(
            among,
            np.concatenate([self.with_reference, reference], axis=1),
            np.concatenate([self.with_targets, with_targets[:, None]], axis=1),
        )

    def segment(
        self,
        rows: Float64[np.ndarray, "B T T"],
        mixing: Float64[np.ndarray, " B"],
        matrix: Float64[np.ndarray, "T1 T1"],
        known: Sequence[int],
        *,
        end: int,
        ridge: float,
    ) -> Float64[np.ndarray, "B N T"]:
        """The rows of the steps between the last known computed step and ``end``.

        Args:
            rows: of every branch, fitted up to the last known step.
            mixing: the branches' coefficients in the guided output; one branch alone has 1.
            matrix: the sampler matrix.
            known: the computed steps so far.
            end: the next computed step, or T.
            ridge: relative to the features' mean square.
        """
        steps, first = np.arange(known[-1] + 1, end), known[-1] + 1
        count, size = len(mixing), len(mixing) * len(known)
        own = OWN if count > 1 else 0.0
        targets = self.with_reference[..., steps]
        fitted = solve_branches(self.among, targets, mixing, ridge=ridge, own=own)
        # Features weigh in guided outputs by their branch's coefficient; below, these products are one long row.
        prior = (mixing[:, None, None] * fitted).transpose(1, 0, 2).reshape(steps.size, size)
        among = self.among.reshape(size, size)
        through = matrix[end, 1:]
        past = (through[:first] @ rows[:, :first][..., list(known)]) * mixing[:, None]
        wanted = self.with_targets[..., end].ravel() - among @ (past.ravel() + through[steps] @ prior)
        correction = ridge_solve(among, wanted, ridge * float(among.trace()) / size)
        share = through[steps] / float(through[steps] @ through[steps])
        weights = (prior + np.outer(share, correction)).reshape(steps.size, count, len(known))
        found = np.zeros((count, steps.size, rows.shape[1]))
        found[..., list(known)] = weights.transpose(1, 0, 2) / mixing[:, None, None]
        return found
