"""Corrections of forecasts that mix channels: one matrix per segment and computed feature."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from foreseer.checks import check_count, check_kind
from foreseer.errors import ForeseerError, PlanError

MOST_CHANNELS = 4096
START = -1  # among the sources of forecasts: the run's first sample
AXES = (-1, 1, 2)  # of the channels: packed tokens, pictures and videos, videos with frames first


@dataclass(frozen=True, eq=False)
class MixedSegment:
    r"""Channel-mixing correction of the forecasts of one segment of skipped steps.

    The correction is $\hat F_i \leftarrow \hat F_i + p_i \sum_j F_j M_j$. Each $M_j$ acts on the channels of a
    feature, identically in every token or pixel.

    Args:
        branch: the branch of guidance whose forecasts are corrected; empty where branches share their rows.
        steps: the skipped steps i, ascending.
        shares: p, shape (S,): each step's share of the correction.
        sources: the computed steps j, ascending, all before the first of ``steps``; -1 for the run's first sample.
        matrices: M, shape (K, C, C), float32.

    Raises:
        PlanError: sizes, steps or values violate the above.
    """

    branch: str
    steps: tuple[int, ...]
    shares: Float64[np.ndarray, " S"] = field(repr=False)
    sources: tuple[int, ...]
    matrices: Float32[np.ndarray, "K C C"] = field(repr=False)

    def __post_init__(self) -> None:
        steps, sources = tuple(map(int, self.steps)), tuple(map(int, self.sources))
        shares, matrices = _frozen(self.shares, np.float64), _frozen(self.matrices, np.float32)
        if not isinstance(self.branch, str) or not steps or not sources:
            raise PlanError("A correction needs the name of a branch, skipped steps and computed steps.")
        ascending = all(list(one) == sorted(set(one)) for one in (steps, sources))
        if not ascending or sources[0] < START or sources[-1] >= steps[0]:
            raise PlanError(
                f"Steps {steps} cannot be corrected by features of {sources}: they must come before, in order."
            )
        channels = matrices.shape[-1] if matrices.ndim == 3 else 0
        if matrices.shape != (len(sources), channels, channels) or not 1 <= channels <= MOST_CHANNELS:
            raise PlanError(f"The matrices have shape {matrices.shape}; expected ({len(sources)}, C, C), C up to 4096.")
        if shares.shape != (len(steps),) or not np.all(np.isfinite(shares)) or not np.all(np.isfinite(matrices)):
            raise PlanError(f"The shares have shape {shares.shape}; expected one for each of {steps}, all finite.")
        for name, value in (("steps", steps), ("sources", sources), ("shares", shares), ("matrices", matrices)):
            object.__setattr__(self, name, value)

    @property
    def channels(self) -> int:
        """C."""
        return self.matrices.shape[-1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MixedSegment):
            return NotImplemented
        same = (self.branch, self.steps, self.sources) == (other.branch, other.steps, other.sources)
        return same and np.array_equal(self.shares, other.shares) and np.array_equal(self.matrices, other.matrices)

    def __hash__(self) -> int:
        return hash((self.branch, self.steps, self.sources))


@dataclass(frozen=True)
class ChannelMixing:
    """All channel-mixing corrections of a plan.

    Args:
        axis: of the channels: -1 for packed tokens (B, N, C), 1 for (B, C, ...), 2 for (B, F, C, H, W).
        segments: of one number of channels; no step of a branch is in two of them.

    Raises:
        PlanError: the axis is another, or segments overlap or differ in their channels.
    """

    axis: int
    segments: tuple[MixedSegment, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))
        object.__setattr__(self, "axis", check_axis(self.axis, PlanError))
        if not self.segments or not all(isinstance(segment, MixedSegment) for segment in self.segments):
            raise PlanError("Channel mixing holds segments, one at least.")
        if len({segment.channels for segment in self.segments}) > 1:
            raise PlanError("All matrices of a plan must mix the same number of channels.")
        corrected = [(segment.branch, step) for segment in self.segments for step in segment.steps]
        if len(set(corrected)) < len(corrected):
            raise PlanError("A step is corrected by two segments.")

    @property
    def channels(self) -> int:
        """C."""
        return self.segments[0].channels

    @property
    def bytes(self) -> int:
        """Bytes of all matrices."""
        return sum(segment.matrices.nbytes for segment in self.segments)

    def of_branch(self, name: str) -> ChannelMixing | None:
        """The corrections of one branch."""
        segments = tuple(segment for segment in self.segments if segment.branch == name)
        return ChannelMixing(self.axis, segments) if segments else None

    @cached_property
    def by_step(self) -> Mapping[int, tuple[MixedSegment, float]]:
        """For each corrected step its segment and its share; of a single branch's mixing."""
        return MappingProxyType(
            {
                step: (one, float(share))
                for one in self.segments
                for step, share in zip(one.steps, one.shares, strict=True)
            }
        )


def check_axis(axis: Any, error: type[ForeseerError]) -> int:
    """Return the axis of the channels as an ``int``.

    Raises:
        ForeseerError: of class ``error``; it is not one of ``AXES``.
    """
    if not isinstance(axis, int | np.integer) or isinstance(axis, bool) or axis not in AXES:
        raise error(f"The channel axis is {axis!r}; expected one of {', '.join(map(str, AXES))}.")
    return int(axis)


def check_mixing(
    mixing: ChannelMixing | None, computed: Mapping[str, tuple[int, ...]], steps: int, site: str = "output"
) -> None:
    """Check that corrections fit a plan.

    Args:
        mixing: the corrections; ``None`` fits any plan.
        computed: by branch its computed steps; under "" those of the rows that branches share.
        steps: of the plan's grid.
        site: of the plan; only at the output the first sample is a source.

    Raises:
        PlanError: ``mixing`` is of another kind, a branch has no rows, a corrected step computes, or a source does not.
    """
    if mixing is None:
        return
    check_kind("mixing", mixing, ChannelMixing, PlanError)
    for segment in mixing.segments:
        if segment.branch not in computed:
            raise PlanError(f"Channels are mixed for {segment.branch!r}, which has no rows of its own.")
        own = computed[segment.branch]
        if START in segment.sources and site != "output":
            raise PlanError(f"Only corrections of the output can mix the first sample; this plan's site is {site!r}.")
        if segment.steps[-1] >= steps or set(segment.steps) & set(own) or not set(segment.sources) <= {START, *own}:
            raise PlanError(
                f"Steps {segment.steps} are corrected by features of {segment.sources}; of {steps} steps, the branch "
                f"computes {own}: those cannot be corrected, and only those have features."
            )


def mixing_arrays(mixing: ChannelMixing, steps: int) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a plan's file that hold ``mixing``, and its metadata as JSON."""
    shares = np.zeros((len(mixing.segments), steps))
    for index, segment in enumerate(mixing.segments):
        shares[index, list(segment.steps)] = segment.shares
    sources = [(index, source) for index, one in enumerate(mixing.segments) for source in one.sources]
    arrays = {
        "mixing_shares": shares,
        "mixing_sources": np.array(sources, dtype=np.int64),
        "mixing_matrices": np.concatenate([segment.matrices for segment in mixing.segments]),
    }
    branches = [segment.branch for segment in mixing.segments]
    corrected = [list(segment.steps) for segment in mixing.segments]
    return arrays, json.dumps({"axis": mixing.axis, "branches": branches, "steps": corrected})


def read_mixing(arrays: Mapping[str, np.ndarray], metadata: Any) -> ChannelMixing:
    """The mixing that a plan's file holds.

    Args:
        arrays: those of the file, their dtypes and sizes checked.
        metadata: parsed.

    Raises:
        ValueError, PlanError: it is not as :func:`mixing_arrays` makes it.
    """
    names = {"mixing_shares", "mixing_sources", "mixing_matrices"}
    if not names <= arrays.keys() or not isinstance(metadata, dict) or metadata.keys() != {"axis", "branches", "steps"}:
        raise ValueError("its channel mixing is incomplete")
    shares, sources = arrays["mixing_shares"], arrays["mixing_sources"]
    branches, steps = metadata["branches"], metadata["steps"]
    count, total = shares.shape
    if not all(isinstance(one, list) and len(one) == count for one in (branches, steps)):
        raise ValueError("its channel mixing names other segments than it holds")
    if not all(isinstance(branch, str) for branch in branches) or not isinstance(metadata["axis"], int):
        raise ValueError("its channel mixing has a branch without a name, or no axis")
    if sources.shape[1] != 2 or not np.array_equal(np.unique(sources[:, 0]), np.arange(count)):
        raise ValueError("its channel mixing has matrices of no segment, or segments without any")
    if np.any(np.diff(sources[:, 0]) < 0):
        raise ValueError("its channel mixing has matrices out of order")
    ends = np.searchsorted(sources[:, 0], np.arange(count + 1))
    segments = []
    for index, (begin, end) in enumerate(itertools.pairwise(ends.tolist())):
        _check_steps(steps[index], total)
        of_segment = tuple(sources[begin:end, 1].tolist())
        matrices = arrays["mixing_matrices"][begin:end]
        segments.append(
            MixedSegment(branches[index], tuple(steps[index]), shares[index, steps[index]], of_segment, matrices)
        )
    return ChannelMixing(metadata["axis"], tuple(segments))


def _check_steps(steps: Any, total: int) -> None:
    if not isinstance(steps, list):
        raise ValueError("its channel mixing has steps that are no list")
    for step in steps:
        check_count("a corrected step", step, PlanError, most=total - 1)


def _frozen(values: Any, dtype: type) -> np.ndarray:
    try:
        array = np.array(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise PlanError(f"Channel mixing holds numbers: {error}.") from error
    array.setflags(write=False)
    return array
