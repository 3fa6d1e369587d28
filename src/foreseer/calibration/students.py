"""What workers do for a rollout: reference runs, and students that follow a plan step by step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreseer.attach.network.containers import flatten
from foreseer.calibration.jobs import PromptRuns
from foreseer.calibration.references import References
from foreseer.calibration.replay import find_call, run_plan
from foreseer.calibration.rollout_moments import Share, Student
from foreseer.calibration.sampler import sampler_matrix
from foreseer.grid import Grid
from foreseer.plan import Plan
from foreseer.scale import Task, Unit, Worker

STUDENTS = "students"  # in a worker's memory
Path = tuple[tuple[int, tuple[str, ...]], ...]


@dataclass(frozen=True)
class FindOwnRun(Task):
    """The steps to ask for and the sampler matrix, from one step of a run; the unit's payload is a prompt."""

    runs: PromptRuns
    grid: Grid
    recorded: str

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """Steps as 8 bytes, then the matrix as float64."""
        pipe, options = self.runs.on(worker)
        given = {name: value for name, value in self.runs.options.items() if name == "num_inference_steps"}
        call, first = find_call(pipe, unit.payload, self.grid, {**options, **given}, self.recorded)
        matrix = sampler_matrix(first.scheduler, first_step=first.first_step)
        return int(call["num_inference_steps"]).to_bytes(8, "little") + matrix.tobytes()


def decode_own_run(content: bytes) -> tuple[int, np.ndarray]:
    """Steps and matrix of a :class:`FindOwnRun`."""
    matrix = np.frombuffer(content[8:])
    size = round(matrix.size**0.5)
    return int.from_bytes(content[:8], "little"), matrix.reshape(size, size)


@dataclass(frozen=True)
class ReferenceStart:
    """Where students begin.

    Args:
        grid: that the students follow.
        matrix: the sampler matrix of that grid, shape (T + 1, T + 1).
        branches: names of the branches of guidance to record apart; none where rows are shared.
        folder: where references are kept; ``None`` to keep none.
        steps: of the references' runs.
    """

    grid: Grid
    matrix: np.ndarray
    branches: tuple[str, ...]
    folder: str | None
    steps: int


@dataclass(frozen=True)
class RolloutSetting:
    """What all tasks of one rollout share.

    Args:
        runs: of the students.
        start: of the students.
        token: of this rollout alone; a worker drops the students of any other.
    """

    runs: PromptRuns
    start: ReferenceStart
    token: str

    def students(self, worker: Worker) -> dict[tuple[str, int], tuple[Student, tuple[str, ...]]]:
        """Return the worker's students of this rollout, with their branches, by prompt and seed."""
        token, students = worker.memory.get(STUDENTS, ("", {}))
        if token != self.token:
            token, students = worker.memory[STUDENTS] = self.token, {}
        return students

    def begin(
        self, worker: Worker, prompt: str, seed: int, names: tuple[str, ...] | None
    ) -> tuple[Student, tuple[str, ...], np.ndarray]:
        """A student at its beginning, its branches and their mixing."""
        pipe, options = self.runs.on(worker)
        start, call = self.start, {**options, "num_inference_steps": self.start.steps}
        references = References(pipe, start.grid, start.matrix, call, start.folder, branches=start.branches)
        return references.student(seed, prompt, names)


@dataclass(frozen=True)
class RunReference(Task):
    """Run a prompt's reference; the result is its branches and their mixing. The worker keeps the student."""

    setting: RolloutSetting

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One reference."""
        prompt, seed = unit.payload
        student, names, mixing = self.setting.begin(worker, prompt, seed, None)
        self.setting.students(worker)[prompt, seed] = student, names
        return json.dumps({"names": names, "mixing": [value.hex() for value in mixing.tolist()]}).encode()


def decode_branches(content: bytes) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and mixing of a :class:`RunReference`."""
    found = json.loads(content)
    return tuple(found["names"]), np.array([float.fromhex(value) for value in found["mixing"]])


@dataclass(frozen=True)
class Advance(Task):
    """Bring a student to the last step of ``path`` under ``plan``; the result is its :class:`Share`.

    A worker that does not hold the student, because it replaces one that was lost, begins it again: rows before the
    last step do not change from segment to segment, so one run under this plan gives the same features.

    Args:
        setting: of the rollout.
        names: of the branches, none where they share their rows.
        plan: the rows fitted so far.
        path: each computed step so far, with the names of the branches that compute there.
    """

    setting: RolloutSetting
    names: tuple[str, ...]
    plan: Plan
    path: Path

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One student, one segment."""
        prompt, seed = unit.payload
        students = self.setting.students(worker)
        student, names = students.get((prompt, seed), (None, ()))
        features = sum(max(1, len(names)) for _, names in self.path)
        if student is None or names != self.names or len(student.features) > features:
            student, *_ = self.setting.begin(worker, prompt, seed, self.names)
        students[prompt, seed] = student, self.names
        pipe, options = self.setting.runs.on(worker)
        if len(student.features) < features:
            _advance(pipe, self, student, self.setting.runs.call(options))
        return Share.of(student, max(1, len(self.path[-1][1]))).encode()


def _advance(pipe: Any, task: Advance, student: Student, call: dict[str, Any]) -> None:
    """Run to the last step of the path: evaluations that the student has are replayed, the others are new."""
    last = task.path[-1][0]
    planned = run_plan(pipe, task.plan, student.prompt, student.seed, call, outputs=student.seen, stop_after=last + 1)
    trajectory = planned.trajectory
    known, position = len(student.features), 0
    for step, names in task.path:
        count = max(1, len(names))
        if position >= known:
            if names:
                outputs = (student.seen[name, step + trajectory.first_step] for name in names)
                student.features += [flatten(output)[0].reshape(-1) for output in outputs]
            else:
                student.features.append(trajectory.outputs[step])
        position += count
