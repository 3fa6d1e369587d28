"""Step-by-step explanation of a plan, without running it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from foreseer.errors import PlanError
from foreseer.plan.compiled import CompiledRows
from foreseer.plan.mixing import ChannelMixing

if TYPE_CHECKING:
    from foreseer.plan.plan import Plan

ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
# Unit roundoff: half the distance from 1 to the next number.
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


MOST_TABLES = 4  # with more branches or modules than this, each gets one line instead of a table
Shapes = tuple[int, ...] | Sequence[tuple[int, ...]]
NO_SCHEDULER = "this plan does not say for which scheduler it was made"
# Relative to the feature: from this value on, the expected rounding error is as large as a good forecast's error.
MUCH_ROUNDING = 0.05


@dataclass(frozen=True)
class ForecastExplanation:
    """One forecast step.

    Attributes:
        step: its index.
        noise_level: its level, in the grid's unit.
        weights: nonzero weights of its row, by computed step.
        taken: for each other branch whose features are used, the nonzero weights, by computed step.
        row_sum: sum of the features' weights: 1 if a constant feature is forecast exactly.
        l1_gain: sum of the weights' magnitudes, that of the first sample included: bounds how errors are amplified.
        l2_gain: root of the sum of squared weights: the amplification of independent errors of the features.
        rounding: expected error from the features' rounding alone, relative to the features: u / sqrt(3) times the L2
            gain, with unit roundoff u and independent errors uniform over [-u, u].
        span: steps since the last computed step.
        live_features: features held while the step runs, the first sample included.
        start: weight of the run's first sample.
    """

    step: int
    noise_level: float
    weights: dict[int, float]
    taken: dict[str, dict[int, float]]
    row_sum: float
    l1_gain: float
    l2_gain: float
    rounding: float
    span: int
    live_features: int
    start: float = 0.0


@dataclass(frozen=True)
class MixingExplanation:
    """Size and cost of channel mixing.

    Attributes:
        channels: C.
        axis: axis of the channels.
        matrices: number of C x C matrices.
        bytes: size of all matrices, as the plan stores them (float32).
        multiplications: multiplications in one run, one per matrix entry and token; ``None`` if the feature's shape is
            unknown.
    """

    channels: int
    axis: int
    matrices: int
    bytes: int
    multiplications: int | None

    def __str__(self) -> str:
        words = f"mixes {self.channels} channels (axis {self.axis}): {self.matrices} matrices"
        words += f", {self.bytes / 2**20:.2f} MiB"
        return words if self.multiplications is None else f"{words}, {self.multiplications / 1e9:.3g} GMAC per run"


@dataclass(frozen=True)
class PlanExplanation:
    """Explanation of a plan; ``str`` gives a table, ``to_dict`` plain values for a program.

    Attributes:
        computed_steps: the steps at which the network runs.
        steps: the run's number of steps.
        site: where the feature is taken.
        forecasts: one entry per forecast step.
        most_live: the largest number of features held at once.
        feature_bytes: size of one feature; ``None`` if its shape is unknown.
        live_bytes: size of all features held at once; ``None`` if the shape is unknown.
        rounding: the largest L1 gain times the dtype's unit roundoff: a bound on the relative error that rounding of
            the features can cause in a forecast.
        branches: explanations of the branches that have separate rows.
        parts: explanations of the parts of the feature that have separate rows: modules, or further tensors.
        mixing: size and cost of channel mixing, summed over branches; ``None`` without it. With mixing, one more
            feature is held: the correction of a segment.
    """

    computed_steps: tuple[int, ...]
    steps: int
    site: str
    forecasts: tuple[ForecastExplanation, ...]
    most_live: int
    dtype: str
    feature_bytes: int | None
    live_bytes: int | None
    rounding: float
    provenance: dict[str, str]
    branches: dict[str, PlanExplanation] = field(default_factory=dict)
    parts: dict[str, PlanExplanation] = field(default_factory=dict)
    mixing: MixingExplanation | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dictionaries."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{len(self.computed_steps)} of {self.steps} steps computed "
            f"({self.steps / len(self.computed_steps):.2f}x fewer), site {self.site}",
            "computed: " + " ".join(map(str, self.computed_steps)),
            *self._apart(),
            *(f"{key}: {value}" for key, value in self.provenance.items()),
            *([] if "scheduler" in self.provenance else [f"scheduler: {NO_SCHEDULER}"]),
            f"live features at most: {self.most_live}"
            + (f" ({self.live_bytes / 2**20:.2f} MiB in {self.dtype})" if self.live_bytes is not None else ""),
            f"rounding of {self.dtype} features amplified to at most {self.rounding:.1e}",
            *self._flags(),
            *([str(self.mixing)] if self.mixing is not None else []),
            "",
            *(["shared rows, for all others than those below:"] if self._separate else []),
            *self._table(),
        ]
        if len(self._separate) > MOST_TABLES:
            return "\n".join([*lines, "", "rows of their own, with the largest gain:", *self._gains()])
        for name, branch in self._separate.items():
            lines += ["", f"rows of {name}:", *branch._table()]
        return "\n".join(lines)

    @property
    def _separate(self) -> dict[str, PlanExplanation]:
        return self.branches | self.parts

    def _apart(self) -> list[str]:
        """Return lines on the steps that each branch computes, if branches differ in them."""
        counts = {name: len(branch.computed_steps) for name, branch in self.branches.items()}
        if all(count == len(self.computed_steps) for count in counts.values()):
            return []
        words = ", ".join(f"{name} {count}" for name, count in counts.items())
        steps = [
            f"computed of {name}: " + " ".join(map(str, one.computed_steps)) for name, one in self.branches.items()
        ]
        return [f"forward passes: {sum(counts.values())} ({words})", *steps]

    def _gains(self) -> list[str]:
        gains = {
            name: max((one.l1_gain for one in rows.forecasts), default=0.0) for name, rows in self._separate.items()
        }
        return [f"{gain:>7.2f}  {name}" for name, gain in gains.items()]

    @property
    def flagged(self) -> tuple[ForecastExplanation, ...]:
        """The forecasts whose rows amplify the rounding of the features much."""
        return tuple(one for one in self.forecasts if one.rounding >= MUCH_ROUNDING)

    def _flags(self) -> list[str]:
        if not self.flagged:
            return []
        worst = max(self.flagged, key=lambda one: one.rounding)
        return [
            f"LARGE GAIN at {len(self.flagged)} steps (marked !): rounding alone is expected to cost up to "
            f"{worst.rounding:.0%} of the feature (step {worst.step}, gain {worst.l1_gain:.0f})"
        ]

    def _table(self) -> list[str]:
        lines = [
            f"{'step':>4} {'level':>9} {'span':>4} {'sum':>7} {'L1 gain':>7} {'L2 gain':>7} {'live':>4}  "
            "row (step:weight)",
        ]
        for one in self.forecasts:
            row = " ".join(f"{step}:{weight:+.3f}" for step, weight in one.weights.items())
            for other, weights in one.taken.items():
                row += f" | {other} " + " ".join(f"{step}:{weight:+.3f}" for step, weight in weights.items())
            row += f" | first sample {one.start:+.3f}" if one.start else ""
            lines.append(
                f"{one.step:>4} {one.noise_level:>9.4g} {one.span:>4} {one.row_sum:>7.3f} {one.l1_gain:>7.2f} "
                f"{one.l2_gain:>7.2f} {one.live_features:>4}{'!' if one in self.flagged else ' '} {row}"
            )
        return lines


def explain(plan: Plan | CompiledRows, feature_shape: Shapes | None = None, dtype: str = "float32") -> PlanExplanation:
    """Explain a plan, or the rows of one of its branches.

    Args:
        plan: the plan, or ``plan.of_branch(name)``.
        feature_shape: shape of the feature, or of each of its tensors (at module sites: those of a run's record).
        dtype: dtype of the features.

    Raises:
        PlanError: the dtype is unknown, or a dimension of the shape is not positive.
    """
    if dtype not in ITEM_BYTES:
        raise PlanError(f"Unknown dtype {dtype!r}: expected one of {', '.join(ITEM_BYTES)}.")
    shapes = _shapes(feature_shape)
    rows = plan if isinstance(plan, CompiledRows) else plan.of_branch("")
    whole = rows.plan
    mixing = rows.mixing if rows.name else whole.mixing
    forecasts = tuple(_explain_step(rows, step, dtype) for step in rows.forecast_steps)
    feature_bytes = sum(map(math.prod, shapes)) * ITEM_BYTES[dtype] if shapes else None

    def of_each(names: Iterable[str]) -> dict[str, PlanExplanation]:
        return {name: explain(whole.of_branch(name), feature_shape, dtype) for name in names}

    return PlanExplanation(
        computed_steps=rows.computed_steps,
        steps=len(rows.grid),
        site=whole.site,
        forecasts=forecasts,
        most_live=rows.most_live,
        dtype=dtype,
        feature_bytes=feature_bytes,
        live_bytes=None if feature_bytes is None else (rows.most_live + (mixing is not None)) * feature_bytes,
        rounding=ROUNDOFF[dtype] * max((one.l1_gain for one in forecasts), default=0.0),
        provenance={**whole.provenance, "branch": rows.name} if rows.name else dict(whole.provenance),
        branches=of_each(() if rows.name else whole.branch_rows),
        parts=of_each(() if rows.name else whole.part_rows),
        mixing=_explain_mixing(mixing, shapes),
    )


def _explain_mixing(mixing: ChannelMixing | None, shapes: list[tuple[int, ...]]) -> MixingExplanation | None:
    if mixing is None:
        return None
    matrices = sum(len(segment.sources) for segment in mixing.segments)
    multiplications = matrices * sum(map(math.prod, shapes)) * mixing.channels if shapes else None
    return MixingExplanation(mixing.channels, mixing.axis, matrices, mixing.bytes, multiplications)


def _shapes(given: Shapes | None) -> list[tuple[int, ...]]:
    shapes: Any = () if given is None else (given,) if not given or isinstance(given[0], int) else given
    for shape in shapes:
        if not shape or min(shape) < 1:
            raise PlanError(f"The feature shape {shape} must have positive dimensions.")
    return [tuple(shape) for shape in shapes]


def worst_rounding(plan: Plan | CompiledRows, dtype: str) -> tuple[int, float]:
    """Return the forecast step that ``dtype`` rounding affects most, and its expected relative error.

    >>> from foreseer import Grid, Policy, forecast, schedule
    >>> steep = Policy(schedule.Uniform.for_nfe(7, 50), forecast.Newton(order=5)).compile(Grid.uniform(50))
    >>> step, error = worst_rounding(steep, "bfloat16")
    >>> error > MUCH_ROUNDING > worst_rounding(steep, "float32")[1]
    True
    """
    if not plan.forecast_steps or dtype not in ROUNDOFF:
        return -1, 0.0
    compiled = plan if isinstance(plan, CompiledRows) else plan.of_branch("")
    start = [compiled.start_weights.get(step, 0.0) for step in plan.forecast_steps]
    sizes = np.hypot(np.linalg.norm(plan.rows[list(plan.forecast_steps)], axis=1), start)
    worst = int(np.argmax(sizes))
    return plan.forecast_steps[worst], ROUNDOFF[dtype] / math.sqrt(3) * float(sizes[worst])


def _explain_step(rows: CompiledRows, step: int, dtype: str) -> ForecastExplanation:
    row = rows.rows[step]
    taken = {
        other: dict(zip(used, weights, strict=True)) for other, used, weights in rows.sparse_cross_rows.get(step, ())
    }
    every = [*row[row != 0].tolist(), *(weight for weights in taken.values() for weight in weights.values())]
    weighed = [*every, start := rows.start_weights.get(step, 0.0)]
    return ForecastExplanation(
        step=step,
        noise_level=float(rows.grid.levels[step]),
        weights={int(j): float(row[j]) for j in np.flatnonzero(row)},
        taken=taken,
        row_sum=float(sum(every)),
        l1_gain=float(sum(map(abs, weighed))),
        l2_gain=(l2_gain := float(np.linalg.norm(weighed))),
        rounding=ROUNDOFF[dtype] / math.sqrt(3) * l2_gain,
        span=step - max(j for j in rows.computed_steps if j < step),
        live_features=len(rows.live_steps(step)),
        start=start,
    )
