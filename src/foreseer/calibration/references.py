"""Reference runs of a rollout, one per prompt, saved so that an interrupted rollout can reuse them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreseer.calibration.branch_recorder import BranchRecorder, NotMixedError, find_mixing, record_branches
from foreseer.calibration.identity import fingerprint, identity_of
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


class Work:
    """Counts forward passes for a progress bar.

    Attributes:
        done: forward passes so far.
        total: expected number of forward passes.
    """

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress = progress
        self.total = total
        self.done = 0

    def did(self, passes: int) -> None:
        """Add finished forward passes."""
        self.done += passes
        if self._progress is not None:
            self._progress(self.done, self.total)


class References:
    """Reference runs of the prompts, read from the folder where they are saved, else run.

    Args:
        pipe: the pipeline.
        grid: grid of the fitted plan.
        matrix: the sampler matrix of that grid.
        call: options of the reference's call, including its number of steps.
        folder: where references are saved; ``None`` saves none.
        branches: names of the guidance branches to record separately; empty if rows are shared.
    """

    def __init__(
        self,
        pipe: Any,
        grid: Grid,
        matrix: np.ndarray,
        call: dict[str, Any],
        folder: str | os.PathLike[str] | None = None,
        *,
        branches: tuple[str, ...] = (),
    ) -> None:
        self._pipe = pipe
        self._grid = grid
        self._branches = branches
        self._matrix = matrix
        self._call = call
        self._folder = Path(folder) if folder is not None else None
        self._names: tuple[str, ...] | None = None
        self._mixing = np.ones(1)

    def students(self, seeded: list[tuple[int, str]], work: Work) -> tuple[tuple[str, ...], np.ndarray, list[Student]]:
        """The branches' names (none where rows are shared), their mixing, and a student a prompt."""
        students = []
        for seed, prompt in seeded:
            students.append(self._found(seed, prompt) or self._run(seed, prompt))
            work.did(int(self._call["num_inference_steps"]))
        return self._names or (), self._mixing, students

    def student(
        self, seed: int, prompt: str, names: tuple[str, ...] | None = None
    ) -> tuple[Student, tuple[str, ...], np.ndarray]:
        """Return a new student, the names of its branches (none if rows are shared), and their mixing.

        Args:
            seed: of the initial noise.
            prompt: text.
            names: of the branches that the student must have; by default those that its run has.
        """
        self._names = None
        kept = self._found(seed, prompt)
        if kept is not None and names in (None, self._names):
            return kept, self._names or (), self._mixing
        self._names = names
        student = self._run(seed, prompt, keep=names is None)
        return student, self._names or (), self._mixing

    def _run(self, seed: int, prompt: str, *, keep: bool = True) -> Student:
        pipe = self._pipe
        with record_run(pipe) as trajectory, _recorder(pipe, trajectory, apart=bool(self._branches)) as recorder:
            run(pipe, call_arguments(pipe, prompt, self._call), seed)
        assert trajectory.start is not None
        if self._names is None:
            self._names, self._mixing = _branches_of(recorder, trajectory)
        outputs = torch.stack(trajectory.outputs).float()
        at, through = _at_levels(
            self._grid, trajectory.grid, sampler_matrix(trajectory.scheduler, first_step=trajectory.first_step)
        )
        apart = [torch.stack(list(recorder.outputs[name].values())).float() for name in self._names] or [outputs]
        reference = [one for branch in apart for one in torch.as_tensor(at).to(branch) @ branch]
        targets = torch.as_tensor(through[:, 1:]).to(outputs) @ outputs
        targets += torch.as_tensor(through[:, :1] - self._matrix[:, :1]).to(outputs) * trajectory.start.to(outputs)
        student = Student(prompt, seed, reference, list(targets))
        if keep:
            self._keep(student)
        return student

    def _identity(self, seed: int, prompt: str) -> str:
        steps = int(self._call["num_inference_steps"])
        words = identity_of(self._pipe, [prompt], steps, seed, self._call)
        recorded = {"grid": fingerprint(self._grid.key), "branches": list(self._branches)}
        return json.dumps({**words, **recorded}, sort_keys=True)

    def _path(self, identity: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"reference-{fingerprint(identity)}.safetensors"

    def _keep(self, student: Student) -> None:
        identity = self._identity(student.seed, student.prompt)
        path = self._path(identity)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CalibrationError(f"Cannot keep references in {path.parent}: {error.strerror}.") from error
        arrays = {
            "reference": torch.stack(student.reference).cpu().numpy(),
            "targets": torch.stack(student.targets).cpu().numpy(),
            "mixing": self._mixing,
        }
        REFERENCE_FILE.save(path, arrays, {"identity": identity, "names": json.dumps(self._names)})

    def _found(self, seed: int, prompt: str) -> Student | None:
        identity = self._identity(seed, prompt)
        path = self._path(identity)
        if path is None or not path.is_file():
            return None
        arrays, metadata = REFERENCE_FILE.load(path)
        if metadata["identity"] != identity:
            return None
        names, steps = _names_of(metadata["names"], path), len(self._grid)
        branches = max(1, len(names))
        sizes = tuple(arrays[name].shape[:1] for name in ("reference", "targets", "mixing"))
        if sizes != ((branches * steps,), (steps + 1,), (branches,)) or not {*names} <= {*self._branches}:
            raise CalibrationError(f"{path} is no reference of {branches} branches and {steps} steps. {REMEDY}")
        self._names, self._mixing = names, arrays["mixing"]
        device = getattr(self._pipe, "device", "cpu")
        reference, targets = (torch.from_numpy(arrays[name].copy()).to(device) for name in ("reference", "targets"))
        return Student(prompt, seed, list(reference), list(targets))


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
