"""Error of the final sample under a plan, measured against reference runs, and its derivatives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.attach.network.containers import flatten
from foreseer.calibration.error_derivatives import error_moments
from foreseer.calibration.gauss_newton import ErrorMoments
from foreseer.calibration.identity import fingerprint
from foreseer.calibration.job_checks import make_folder
from foreseer.calibration.jobs import PromptRuns, Work, prompt_unit
from foreseer.calibration.record import gram, record_run
from foreseer.calibration.references import REMEDY
from foreseer.calibration.replay import DivergedError, Outputs, PlannedRun, run_plan
from foreseer.calibration.row_directions import RowDirections
from foreseer.errors import CalibrationError
from foreseer.files import Artifact
from foreseer.pipelines import call_arguments, run
from foreseer.plan import Plan
from foreseer.scale import Task, Unit, Worker

FINALS = "finals"  # in a worker's memory
FINAL_FILE = Artifact(
    "final sample",
    version=1,
    arrays={"sample": (np.float32, "D")},
    optional=(),
    metadata=("identity",),
    error=CalibrationError,
    most_bytes=2**36,
    remedy=REMEDY,
)


@dataclass(frozen=True)
class Reference:
    """Prompt, seed of its initial noise, and final sample of its reference run (flattened, float32)."""

    prompt: Any
    seed: int
    sample: Tensor


def final_reference(
    pipe: Any, prompt: Any, seed: int, call: dict[str, Any], *, folder: str | None, identity: Mapping[str, str]
) -> Reference:
    """The reference of a prompt: run, or read from ``folder``, where it is kept.

    Args:
        pipe: a pipeline, not attached.
        prompt: text.
        seed: of the initial noise.
        call: options of the reference's call.
        folder: where final samples are kept; ``None`` keeps none.
        identity: everything but prompt and seed that the sample depends on.

    Raises:
        CalibrationError: the folder cannot be written, or holds a damaged file.
    """
    words = prompt_unit("", 0, prompt, seed, identity).fingerprint
    path = Path(folder) / f"final-{fingerprint(words)}.safetensors" if folder is not None else None
    sample = _read_sample(path, words)
    if sample is None:
        with record_run(pipe) as trajectory:
            run(pipe, call_arguments(pipe, prompt, call), seed)
        assert trajectory.sample is not None
        sample = _flat(trajectory.sample)
        if path is not None:
            make_folder(folder)
            FINAL_FILE.save(path, {"sample": sample.cpu().numpy()}, {"identity": words})
    return Reference(prompt, seed, sample)


def _read_sample(path: Path | None, identity: str) -> Tensor | None:
    if path is None or not path.is_file():
        return None
    arrays, metadata = FINAL_FILE.load(path)
    return torch.from_numpy(arrays["sample"].copy()) if metadata["identity"] == identity else None


class FinalError:
    """Measures plans on prompts; every error is relative to the size of the prompt's reference sample.

    Args:
        pipe: a diffusers pipeline, not attached.
        call: options of its call, those of the plans' grid.
        work: counts forward passes.
    """

    def __init__(self, pipe: Any, call: Mapping[str, Any], work: Work) -> None:
        self._pipe = pipe
        self._call = call
        self.work = work

    def run(self, plan: Plan, reference: Reference, outputs: Outputs | None = None) -> tuple[PlannedRun, Tensor]:
        """A run under ``plan``, and its error over the size of the reference, flattened, in float32."""
        found = run_plan(self._pipe, plan, reference.prompt, reference.seed, self._call, outputs=outputs)
        self.work.did(found.forward_passes)
        assert found.trajectory.sample is not None
        truth = reference.sample.to(found.trajectory.sample.device)
        return found, (_flat(found.trajectory.sample) - truth) / truth.norm()

    def measure(self, plan: Plan, reference: Reference) -> tuple[float, list[np.ndarray]]:
        """The relative error, infinite if the run diverges, and products of features by branch."""
        outputs: Outputs = {}
        try:
            found, error = self.run(plan, reference, outputs)
        except DivergedError:
            self.work.did(len(outputs) + 1)
            return math.inf, []
        grams = _grams(plan, found)
        return float(error.double().norm()), [grams[name] for name in plan.branch_rows or ("",)]

    def linearise(self, directions: RowDirections, reference: Reference, difference: float) -> ErrorMoments:
        r"""Moments of one prompt's error and of its derivatives, by forward differences of the runs.

        Only the part of a run after the changed segment calls the network.

        Args:
            directions: along which rows change.
            reference: of the prompt.
            difference: change of the sample at a segment's end, relative to the size of the final sample.
        """
        base, error = self.run(directions.plan, reference)
        size = difference * float(reference.sample.double().square().mean().sqrt())
        return error_moments(
            directions, error, lambda plan, start: self.run(plan, reference, base.until(start))[1], size
        )


@dataclass(frozen=True)
class FinalSetting:
    """What all tasks of one refinement share.

    Args:
        runs: under the plans.
        teacher_steps: of the references' runs.
        folder: where references are kept; ``None`` keeps none.
    """

    runs: PromptRuns
    teacher_steps: int
    folder: str | None

    @property
    def identity(self) -> dict[str, str]:
        """Everything but prompt and seed that a reference depends on."""
        return {**self.runs.identity, "teacher": str(self.teacher_steps)}

    def begin(self, worker: Worker, unit: Unit) -> tuple[FinalError, Reference]:
        """What measures a worker's runs, and the unit's reference; the worker keeps references."""
        prompt, seed = unit.payload
        pipe, options = self.runs.on(worker)
        identity, references = worker.memory.get(FINALS, (None, {}))
        if identity != self.identity:
            _, references = worker.memory[FINALS] = self.identity, {}
        if unit.home not in references:
            call = {**self.runs.call(options), "num_inference_steps": self.teacher_steps}
            references[unit.home] = final_reference(
                pipe, prompt, seed, call, folder=self.folder, identity=self.identity
            )
        return FinalError(pipe, self.runs.call(options), Work(None, 0)), references[unit.home]


@dataclass(frozen=True)
class RunFinalReference(Task):
    """Run a prompt's reference; the worker keeps it, the result is empty."""

    setting: FinalSetting

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One reference."""
        self.setting.begin(worker, unit)
        return b""


@dataclass(frozen=True)
class MeasurePlan(Task):
    """Run a plan and measure it.

    The result, in float64, is forward passes, relative error, and mean products of the computed features by branch.
    """

    setting: FinalSetting
    plan: Plan

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One prompt."""
        final, reference = self.setting.begin(worker, unit)
        error, grams = final.measure(self.plan, reference)
        return np.concatenate([[final.work.done, error], *(gram.ravel() for gram in grams)]).tobytes()


@dataclass(frozen=True)
class Linearise(Task):
    """Run a plan and its changes along directions.

    The result, in float64, is forward passes, then the moments of the error and its derivatives.
    """

    setting: FinalSetting
    directions: RowDirections
    difference: float

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One prompt."""
        final, reference = self.setting.begin(worker, unit)
        moments = final.linearise(self.directions, reference, self.difference)
        return np.concatenate(
            [[final.work.done], moments.curvature.ravel(), moments.gradient, [moments.square]]
        ).tobytes()


def _flat(sample: Tensor) -> Tensor:
    return sample.detach().reshape(-1).float()


def _grams(plan: Plan, found: PlannedRun) -> dict[str, np.ndarray]:
    """By branch, mean products of its features over the plan's grid; zero where it did not compute."""
    steps, first = len(plan.grid), found.trajectory.first_step
    grams: dict[str, np.ndarray] = {}
    for name in found.branches:
        computed = [step for step in range(steps) if (name, step + first) in found.outputs]
        outputs = [flatten(found.outputs[name, step + first]) for step in computed]
        features = [torch.cat([tensor.reshape(-1) for tensor in tensors]) for tensors in outputs]
        matrix = np.zeros((steps, steps))
        matrix[np.ix_(computed, computed)] = gram(features, features)
        key = name if name in plan.branch_rows else ""
        grams[key] = grams.get(key, 0.0) + matrix
    return grams
