"""Moments of reference runs' computed features and skipped outputs, and projections fitted on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from foreseer.calibration.jobs import split_header, with_header
from foreseer.calibration.mix_channels import as_tokens
from foreseer.calibration.mixing_moments import MixingMoments, choose_matrices
from foreseer.calibration.record import record_run
from foreseer.calibration.rollout_moments import Student
from foreseer.calibration.students import StudentJob, StudentSetting
from foreseer.errors import CalibrationError
from foreseer.forecast.joint_rows import network_begins
from foreseer.pipelines import call_arguments, run
from foreseer.plan import Plan
from foreseer.plan.mixing import START
from foreseer.scale import Task, Unit, Worker

RIDGES = tuple(10.0**power for power in range(-10, 2))


@dataclass(frozen=True)
class Span:
    """Computed features, and skipped outputs with the features that may forecast them.

    Attributes:
        features: branch index and step, in the order of steps; first that of the run's first sample, unless several
            networks share the run.
        skipped: the steps that at least one branch skips.
        usable: per skipped step, the indices of features computed by its end, by the network that serves it.
    """

    features: tuple[tuple[int, int], ...]
    skipped: tuple[int, ...]
    usable: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, plan: Plan, job: StudentJob) -> Span:
        """Features of the branches that the references record."""
        computed = [set(plan.of_branch(name).computed_steps) for name in job.names or ("",)]
        steps = range(len(plan.grid))
        features = [] if job.handovers else [(0, START)]
        features += [(branch, step) for step in steps for branch, own in enumerate(computed) if step in own]
        skipped = [step for step in steps if not all(step in own for own in computed)]
        usable = []
        for step in skipped:
            begin = network_begins(job.handovers, step) or START
            usable.append(tuple(index for index, (_, source) in enumerate(features) if begin <= source <= step))
        return cls(tuple(features), tuple(skipped), tuple(usable))

    @property
    def any_use(self) -> tuple[int, ...]:
        """Indices of features that may forecast some step."""
        return tuple(sorted({index for indices in self.usable for index in indices}))


@dataclass(frozen=True)
class MeasureSpan(Task):
    """Moments of a reference's computed features and skipped outputs, see :class:`SpanMoments`."""

    setting: StudentSetting
    names: tuple[str, ...]
    span: Span
    axis: int

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One prompt; the run of one step gives the initial noise."""
        prompt, seed = unit.payload
        student = self.setting.student(worker, unit, self.names)
        pipe, options = self.setting.runs.on(worker)
        with record_run(pipe, stop_after=1) as begun:
            run(pipe, call_arguments(pipe, prompt, self.setting.runs.call(options)), seed)
        assert begun.start is not None
        matrix, shape = self.setting.references.matrix, self.setting.shape
        if student.reference[0].numel() != begun.start.numel():
            raise CalibrationError(
                f"The network's output has {student.reference[0].numel()} elements, the sample has shape {shape}: "
                "their channels cannot be compared."
            )
        steps = len(matrix) - 1
        reference, start = student.reference, begun.start.to(student.reference[0]).reshape(-1)
        features = [start if step == START else reference[branch * steps + step] for branch, step in self.span.features]
        outputs = [_guided(student, step, steps) for step in self.span.skipped]
        effects = matrix[-1, 1:][list(self.span.skipped)]
        outputs.append(reduce(add, [float(effect) * output for effect, output in zip(effects, outputs, strict=True)]))
        final = student.targets[-1] + float(matrix[-1, 0]) * begun.start.to(student.targets[-1])
        wanted = [as_tokens(output, shape, self.axis) for output in outputs]
        moments = MixingMoments.of(
            [as_tokens(feature, shape, self.axis) for feature in features], torch.cat(wanted, dim=1)
        )
        squares = [float(tensor.double().square().sum()) for tensor in (*outputs, final)]
        return with_header(squares, np.frombuffer(moments.encode()))


def _guided(student: Student, step: int, steps: int) -> Tensor:
    outputs = student.reference[step::steps]
    return reduce(add, [float(weight) * output for weight, output in zip(student.mixing, outputs, strict=True)])


@dataclass(frozen=True, eq=False)
class SpanMoments:
    """Sums over one prompt's tokens, of K features with S skipped outputs and the final sample.

    Attributes:
        among: of the features' channels, shape (K C, K C).
        wanted: with the outputs' channels, the final share's last, shape (K C, S + 1, C).
        squares: of the outputs and the final share, shape (S + 1,).
        final_square: of the final sample.
    """

    among: Float64[np.ndarray, "M M"]
    wanted: Float64[np.ndarray, "M N C"]
    squares: Float64[np.ndarray, " N"]
    final_square: float

    @classmethod
    def decode(cls, result: bytes, span: Span, channels: int) -> SpanMoments:
        """Read the result of :class:`MeasureSpan`."""
        squares, array = split_header(result)
        targets = len(span.skipped) + 1
        moments = MixingMoments.decode(array.tobytes(), targets * channels)
        wanted = moments.wanted.reshape(-1, targets, channels)
        return cls(moments.among, wanted, np.array(squares[:-1]), squares[-1])

    def of(self, target: int, features: Sequence[int]) -> MixingMoments:
        """Moments of some features with one target."""
        rows = self.rows(features)
        return MixingMoments(self.among[np.ix_(rows, rows)], self.wanted[rows, target], float(self.squares[target]))

    def rows(self, features: Sequence[int]) -> np.ndarray:
        """Indices of the channels of ``features``."""
        channels = self.wanted.shape[2]
        return np.add.outer(channels * np.asarray(features), np.arange(channels)).ravel()


def project(prompts: Sequence[MixingMoments], fitted: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit scalars, then matrices on what scalars leave; the matrices of both, shape (K C, C) each.

    The first ``fitted`` prompts are fitted on, the others choose the ridges. Without a gain on these the second result
    equals the first.
    """
    weighed = [moments.relative() for moments in prompts]
    known, judges = reduce(add, weighed[:fitted]), reduce(add, weighed[fitted:])
    weights = choose_matrices(known.scalar(), judges.scalar(), RIDGES).matrices
    channels = known.wanted.shape[1]
    features = known.among.shape[0] // channels
    scalar = np.kron(np.zeros((features, 1)) if weights is None else weights[:, :, 0], np.eye(channels))
    beyond = choose_matrices(known.beyond(scalar), judges.beyond(scalar), RIDGES).matrices
    return scalar, scalar if beyond is None else scalar + beyond.reshape(scalar.shape)
