"""Directions in which a plan's rows can be changed, one block per segment and branch of guidance."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from foreseer.forecast.joint_rows import network_begins
from foreseer.plan import Plan


@dataclass(frozen=True, eq=False)
class RowSegment:
    r"""Skipped steps between two computed ones, and directions for their rows.

    $\Delta w_{ij} = p_i \sum_m b_{jm} \delta_m$ for a change $\delta$.

    Attributes:
        branch: whose rows change; empty for the rows that branches share.
        start: the last step whose network output no change of these rows reaches.
        steps: the forecast steps i, shape (S,).
        sources: the computed steps j, shape (K,).
        profile: p, shape (S,): the change's share at each step. It changes the sample at the segment's end by
            $\sum_j (\sum_m b_{jm} \delta_m) F_j$.
        basis: b, shape (K, M).
    """

    branch: str
    start: int
    steps: np.ndarray
    sources: np.ndarray
    profile: np.ndarray
    basis: np.ndarray


@dataclass(frozen=True, eq=False)
class RowDirections:
    """All directions of a plan's rows, in the order of its segments; a change is one number per direction."""

    plan: Plan
    segments: tuple[RowSegment, ...]

    @property
    def size(self) -> int:
        """Number of directions."""
        return sum(segment.basis.shape[1] for segment in self.segments)

    @property
    def starts(self) -> list[int]:
        """Per direction, the last step whose network output a change along it does not reach."""
        return [segment.start for segment in self.segments for _ in range(segment.basis.shape[1])]

    def change(self, delta: Float64[np.ndarray, " N"]) -> Plan:
        """The plan whose rows differ by ``delta``."""
        rows = np.array(self.plan.rows)
        own = {name: np.array(matrix) for name, matrix in self.plan.branch_rows.items()}
        ends = np.cumsum([segment.basis.shape[1] for segment in self.segments])
        for segment, part in zip(self.segments, np.split(delta, ends[:-1]), strict=True):
            matrix = own[segment.branch] if segment.branch else rows
            change = np.outer(segment.profile, segment.basis @ part)
            matrix[np.ix_(segment.steps, segment.sources)] += change
        return replace(self.plan, rows=rows, branch_rows=own)


def row_directions(
    plan: Plan,
    grams: Mapping[str, Float64[np.ndarray, "T T"]],
    effects: Float64[np.ndarray, "T1 T"],
    noise: float,
    handovers: Sequence[int] = (),
) -> RowDirections:
    r"""Principal directions of the computed features, one set per segment and branch.

    Features of neighbouring steps differ by a few percent, so derivatives along single weights would differ by as
    little, and be lost in rounding. Along the eigenvectors of the features' Gram matrix, divided by the roots of their
    eigenvalues, every change moves the sample at the segment's end by a root mean square of 1.

    Args:
        plan: whose rows will change.
        grams: by branch, mean products of the features of computed steps; under "" those of all branches where they
            share their rows.
        effects: row e holds what the output of each step does to the sample at step e (the sampler matrix without its
            first column).
        noise: relative rounding of the features; directions with a smaller root mean square are left out.
        handovers: steps at which another network begins; later rows do not use the features before them.
    """
    segments = []
    for start, end in itertools.pairwise((*plan.computed_steps, len(plan.grid))):
        for branch in plan.branch_rows or ("",):
            own = plan.of_branch(branch).computed_steps
            steps = np.array([step for step in range(start, end) if step not in own], dtype=np.int64)
            if not steps.size:
                continue
            begin = network_begins(handovers, start)
            sources = np.array([step for step in own if begin <= step <= start], dtype=np.int64)
            basis = _whitened(grams[branch][np.ix_(sources, sources)], noise)
            segments.append(RowSegment(branch, start, steps, sources, share_of_effects(effects[end, steps]), basis))
    return RowDirections(plan, tuple(segments))


def share_of_effects(effects: np.ndarray) -> np.ndarray:
    """Shares in proportion to ``effects`` whose joint effect is 1."""
    square = float(effects @ effects)
    return effects / square if square > 0 else np.full(effects.size, 1.0 / effects.size)


def _whitened(gram: np.ndarray, noise: float) -> np.ndarray:
    """Return eigenvectors over the roots of their eigenvalues; the largest entry of each is positive."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > max(noise**2, 1e-12) * values[-1]
    basis = (vectors[:, kept] / np.sqrt(values[kept]))[:, ::-1]
    largest = basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])]
    return basis * np.sign(largest)
