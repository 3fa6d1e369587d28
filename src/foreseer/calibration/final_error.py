"""Error of the final sample under a plan, measured against reference runs, and its derivatives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.attach.network.containers import flatten
from foreseer.calibration.gauss_newton import ErrorMoments
from foreseer.calibration.identity import fingerprint, identity_of
from foreseer.calibration.jobs import Work
from foreseer.calibration.record import gram, record_run
from foreseer.calibration.references import REMEDY
from foreseer.calibration.replay import Outputs, PlannedRun, run_plan
from foreseer.calibration.row_directions import RowDirections
from foreseer.errors import CalibrationError
from foreseer.files import Artifact
from foreseer.pipelines import call_arguments, run
from foreseer.plan import Plan

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


def run_references(
    pipe: Any,
    seeded: Sequence[tuple[int, Any]],
    call: dict[str, Any],
    *,
    folder: Path | None,
    work: Work,
    passes: int,
) -> list[Reference]:
    """The reference of each prompt: run, or read from ``folder``, where it is kept.

    Args:
        pipe: a diffusers pipeline, not attached.
        seeded: seeds and prompts.
        call: options of the reference's call.
        folder: where final samples are kept; ``None`` keeps none.
        work: counts forward passes.
        passes: forward passes of one reference run.

    Raises:
        CalibrationError: the folder cannot be written, or holds a damaged file.
    """
    references = []
    for seed, prompt in seeded:
        words = identity_of(pipe, [prompt], int(call["num_inference_steps"]), seed, call)
        identity = json.dumps(words, sort_keys=True)
        path = folder / f"final-{fingerprint(identity)}.safetensors" if folder is not None else None
        sample = _read_sample(path, identity)
        if sample is None:
            with record_run(pipe) as trajectory:
                run(pipe, call_arguments(pipe, prompt, call), seed)
            assert trajectory.sample is not None
            sample = _flat(trajectory.sample)
            work.did(passes)
            if path is not None:
                FINAL_FILE.save(path, {"sample": sample.cpu().numpy()}, {"identity": identity})
        references.append(Reference(prompt, seed, sample))
    return references


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
        self._work = work

    def run(self, plan: Plan, reference: Reference, outputs: Outputs | None = None) -> tuple[PlannedRun, Tensor]:
        """A run under ``plan``, and its error over the size of the reference, flattened, in float32."""
        found = run_plan(self._pipe, plan, reference.prompt, reference.seed, self._call, outputs=outputs)
        self._work.did(found.forward_passes)
        assert found.trajectory.sample is not None
        truth = reference.sample.to(found.trajectory.sample.device)
        return found, (_flat(found.trajectory.sample) - truth) / truth.norm()

    def errors(self, plan: Plan, references: Sequence[Reference]) -> np.ndarray:
        """Relative error of each prompt."""
        return np.array([float(self.run(plan, reference)[1].double().norm()) for reference in references])

    def errors_and_grams(
        self, plan: Plan, references: Sequence[Reference]
    ) -> tuple[np.ndarray, dict[str, np.ndarray], PlannedRun]:
        """Relative errors, mean products of the computed features by branch, and the last run."""
        errors, grams = [], {}
        found = None
        for reference in references:
            found, error = self.run(plan, reference)
            errors.append(float(error.double().norm()))
            for name, matrix in _grams(plan, found).items():
                grams[name] = grams.get(name, 0.0) + matrix / len(references)
        assert found is not None
        return np.array(errors), grams, found

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
        columns = torch.empty(directions.size, error.numel(), device=error.device)
        for index, start in enumerate(directions.starts):
            delta = np.zeros(directions.size)
            delta[index] = size
            changed = self.run(directions.change(delta), reference, base.until(start))[1]
            columns[index] = (changed - error) / size
        products = gram([*columns, error], [*columns, error]) * error.numel()
        return ErrorMoments(products[:-1, :-1], products[:-1, -1], float(products[-1, -1]), 1)


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
