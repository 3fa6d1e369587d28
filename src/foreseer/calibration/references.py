"""Reference runs, one per prompt, saved so that an interrupted job can reuse them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreseer.calibration.branch_recorder import BranchRecorder, NotMixedError, find_mixing, record_branches
from foreseer.calibration.identity import fingerprint
from foreseer.calibration.job_checks import make_folder
from foreseer.calibration.record import Trajectory, record_run
from foreseer.calibration.rollout_moments import Student
from foreseer.calibration.sampler import sampler_matrix
from foreseer.errors import CalibrationError
from foreseer.files import Artifact, read_names, reason
from foreseer.grid import Grid
from foreseer.kernel.level_interpolation import interpolation_weights
from foreseer.pipelines import call_arguments, run

REMEDY = "Remove it: the same call makes it again."  # of a damaged file in a checkpoint
REFERENCE_FILE = Artifact(
    "reference",
    version=1,
    arrays={"mixing": (np.float64, "B"), "reference": (np.float32, None), "targets": (np.float32, None)},
    optional=(),
    metadata=("identity", "names"),
    error=CalibrationError,
    most_bytes=2**40,
    remedy=REMEDY,
)


@dataclass(frozen=True)
class References:
    """Reference runs, read from the folder where they are saved, else run.

    Args:
        grid: grid of the plan that follows them.
        matrix: the sampler matrix of that grid.
        branches: names of the guidance branches to record separately; empty if rows are shared.
        folder: where references are saved; ``None`` saves none.
    """

    grid: Grid
    matrix: np.ndarray
    branches: tuple[str, ...]
    folder: str | None

    def student(
        self,
        pipe: Any,
        prompt: Any,
        seed: int,
        call: dict[str, Any],
        *,
        identity: str,
        names: tuple[str, ...] | None,
    ) -> Student:
        """Return a new student that follows the reference of a prompt.

        Args:
            pipe: the pipeline.
            prompt: text.
            seed: of the initial noise.
            call: options of the reference's call, including its number of steps.
            identity: everything that the reference depends on; a saved one of another identity is not used.
            names: of the branches that the student must have; by default those that its run has.

        Raises:
            CalibrationError: the folder cannot be written, or holds a damaged file.
        """
        path = Path(self.folder) / f"reference-{fingerprint(identity)}.safetensors" if self.folder is not None else None
        kept = self._read(path, identity, getattr(pipe, "device", "cpu"))
        if kept is not None and names in (None, kept.names):
            return kept
        student = self._run(pipe, call_arguments(pipe, prompt, call), seed, names)
        if path is not None and names is None:
            _save(path, student, identity)
        return student

    def _run(self, pipe: Any, arguments: dict[str, Any], seed: int, names: tuple[str, ...] | None) -> Student:
        with record_run(pipe) as trajectory, _recorder(pipe, trajectory, apart=bool(self.branches)) as recorder:
            run(pipe, arguments, seed)
        assert trajectory.start is not None
        found, mixing = _branches_of(recorder, trajectory)
        names = found if names is None else names
        outputs = torch.stack(trajectory.outputs).float()
        at, through = _at_levels(
            self.grid, trajectory.grid, sampler_matrix(trajectory.scheduler, first_step=trajectory.first_step)
        )
        apart = [torch.stack(list(recorder.outputs[name].values())).float() for name in names] or [outputs]
        reference = [output for branch in apart for output in torch.as_tensor(at).to(branch) @ branch]
        targets = torch.as_tensor(through[:, 1:]).to(outputs) @ outputs
        targets += torch.as_tensor(through[:, :1] - self.matrix[:, :1]).to(outputs) * trajectory.start.to(outputs)
        return Student(reference, list(targets), names, mixing)

    def _read(self, path: Path | None, identity: str, device: Any) -> Student | None:
        if path is None or not path.is_file():
            return None
        arrays, metadata = REFERENCE_FILE.load(path)
        if metadata["identity"] != identity:
            return None
        names, steps = _names_of(metadata["names"], path), len(self.grid)
        branches = max(1, len(names))
        sizes = tuple(arrays[name].shape[:1] for name in ("reference", "targets", "mixing"))
        if sizes != ((branches * steps,), (steps + 1,), (branches,)) or not {*names} <= {*self.branches}:
            raise CalibrationError(f"{path} is no reference of {branches} branches and {steps} steps. {REMEDY}")
        reference, targets = (torch.from_numpy(arrays[name].copy()).to(device) for name in ("reference", "targets"))
        return Student(list(reference), list(targets), names, arrays["mixing"])


def _save(path: Path, student: Student, identity: str) -> None:
    make_folder(path.parent)
    arrays = {
        "reference": torch.stack(student.reference).cpu().numpy(),
        "targets": torch.stack(student.targets).cpu().numpy(),
        "mixing": student.mixing,
    }
    REFERENCE_FILE.save(path, arrays, {"identity": identity, "names": json.dumps(student.names)})


def _names_of(words: str, path: Path) -> tuple[str, ...]:
    try:
        return tuple(read_names(words))
    except ValueError as error:
        raise CalibrationError(f"{path} is damaged or no reference: {reason(error)}. {REMEDY}") from error


@contextmanager
def _recorder(pipe: Any, trajectory: Trajectory, *, apart: bool) -> Iterator[BranchRecorder]:
    if not apart:
        yield BranchRecorder(trajectory)
        return
    with record_branches(pipe, trajectory) as recorder:
        yield recorder


def _branches_of(recorder: BranchRecorder, trajectory: Trajectory) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and mixing of a run's branches; no name and 1 where its rows are shared."""
    try:
        features = recorder.features()
        if features:
            return tuple(features), find_mixing(features, trajectory.outputs)
    except NotMixedError:
        pass
    return (), np.ones(1)


def _at_levels(grid: Grid, finer: Grid, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What gives the outputs, and the samples, of a run on ``finer`` at the levels of ``grid``."""
    if finer.unit != grid.unit or len(finer) < len(grid):
        raise CalibrationError(
            f"A reference of {len(finer)} steps ({finer.unit}) is no finer than the kernel's grid of {len(grid)} "
            f"({grid.unit}): take more teacher steps, with the scheduler that the kernel was recorded with."
        )
    at = interpolation_weights(finer.levels, grid.levels)
    return at, np.vstack([at @ matrix[:-1], matrix[-1:]])
