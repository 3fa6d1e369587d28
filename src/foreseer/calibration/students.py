"""Jobs in which every prompt follows its reference run: workers hold students, moments travel."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from foreseer.calibration.find_handovers import find_handovers
from foreseer.calibration.identity import fingerprint
from foreseer.calibration.job_checks import check_teacher
from foreseer.calibration.jobs import PromptRuns, Work, on_prompts, prompt_unit, split_header, with_header
from foreseer.calibration.references import References
from foreseer.calibration.replay import run_plan
from foreseer.calibration.rollout_moments import Student
from foreseer.calibration.sampler import sampler_matrix
from foreseer.grid import Grid
from foreseer.plan import Plan
from foreseer.scale import FolderStore, MemoryStore, Store, Task, Unit, Worker, run_units
from foreseer.scale.model import AnyModel
from foreseer.scale.place import Pool

STUDENTS = "students"  # in a worker's memory


@dataclass(frozen=True)
class Source:
    """Where students begin that share the beginning of another roll.

    Args:
        roll: token of the other roll.
        until: the last step at which both have the same outputs.
    """

    roll: str
    until: int


@dataclass
class _Held:
    """Students of jobs with the same references, on a worker: at their beginning, and by roll."""

    identity: Mapping[str, str]
    references: dict[str | None, Student] = field(default_factory=dict)
    rolls: dict[str, dict[str | None, Student]] = field(default_factory=dict)


@dataclass(frozen=True)
class StudentSetting:
    """What all tasks of one job share.

    Args:
        runs: of the students.
        references: of the students.
        teacher_steps: of the references' runs.
        first_step: of the students' runs on the scheduler's grid.
        shape: of a sample.
    """

    runs: PromptRuns
    references: References
    teacher_steps: int
    first_step: int
    shape: tuple[int, ...]

    @property
    def identity(self) -> dict[str, str]:
        """Everything but prompt and seed that a reference depends on."""
        own = {"teacher": str(self.teacher_steps), "grid": fingerprint(self.references.grid.key)}
        return {**self.runs.identity, **own, "branches": json.dumps(self.references.branches)}

    def student(self, worker: Worker, unit: Unit, names: tuple[str, ...] | None = None) -> Student:
        """The unit's student at its beginning, with branches ``names`` or those that its run has."""
        held = self._held(worker)
        student = held.references.get(unit.home)
        if student is None or names not in (None, student.names):
            prompt, seed = unit.payload
            pipe, options = self.runs.on(worker)
            call = {**options, "num_inference_steps": self.teacher_steps}
            identity = prompt_unit("", 0, prompt, seed, self.identity).fingerprint
            student = self.references.student(pipe, prompt, seed, call, identity=identity, names=names)
            held.references[unit.home] = student
        return student

    def rolled(
        self, worker: Worker, unit: Unit, names: tuple[str, ...], roll: str, source: Source | None = None
    ) -> Student:
        """The unit's student where it stands in a roll; a worker that does not hold it begins it again.

        It keeps the students of this roll and of its source, and drops those of others.
        """
        held = self._held(worker)
        before = held.rolls.get(source.roll, {}) if source is not None else {}
        students = held.rolls.get(roll, {})
        held.rolls = {roll: students} | ({source.roll: before} if source is not None else {})
        if unit.home not in students:
            seen = {}
            if source is not None and unit.home in before:
                last = source.until + self.first_step
                seen = {key: output for key, output in before[unit.home].seen.items() if key[1] <= last}
            students[unit.home] = replace(self.student(worker, unit, names), seen=seen, features=[])
        return students[unit.home]

    def _held(self, worker: Worker) -> _Held:
        held = worker.memory.get(STUDENTS)
        if held is None or held.identity != self.identity:
            held = worker.memory[STUDENTS] = _Held(self.identity)
        return held


@dataclass(frozen=True)
class FindOwnRun(Task):
    """The students' call and sampler matrix, from one step of a run; the unit's payload is a prompt."""

    runs: PromptRuns
    grid: Grid
    recorded: str

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """Steps to ask for, first step, shape, handovers and guidance as JSON, then the matrix as float64."""
        pipe, call, first = self.runs.find(worker, unit.payload, self.grid, self.recorded)
        matrix = sampler_matrix(first.scheduler, first_step=first.first_step)
        handovers = find_handovers(pipe, unit.payload, call, len(self.grid))
        header = [int(call["num_inference_steps"]), first.first_step, first.shape, handovers, first.guidance]
        return with_header(header, matrix)


@dataclass(frozen=True)
class RunReference(Task):
    """Run a prompt's reference; the result is its branches and their mixing. The worker keeps the student."""

    setting: StudentSetting

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One reference."""
        student = self.setting.student(worker, unit)
        mixing = [value.hex() for value in student.mixing.tolist()]
        return json.dumps({"names": student.names, "mixing": mixing}).encode()


@dataclass(frozen=True)
class MeasureFinal(Task):
    """Relative error of a student's final sample under each plan; the result is that many float64."""

    setting: StudentSetting
    names: tuple[str, ...]
    plans: tuple[Plan, ...]

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One student."""
        prompt, seed = unit.payload
        target = self.setting.student(worker, unit, self.names).targets[-1]
        pipe, options = self.setting.runs.on(worker)
        errors = []
        for plan in self.plans:
            trajectory = run_plan(pipe, plan, prompt, seed, self.setting.runs.call(options)).trajectory
            assert trajectory.start is not None
            assert trajectory.sample is not None
            truth = target + float(self.setting.references.matrix[-1, 0]) * trajectory.start.to(target)
            truth = truth.to(trajectory.sample.device)
            error = (trajectory.sample.detach().reshape(-1).float() - truth) / truth.norm()
            errors.append(float(error.double().norm()))
        return np.array(errors).tobytes()


@dataclass(frozen=True)
class StudentJob:
    """Prompts with their references, on workers.

    Attributes:
        pool: of workers.
        setting: what tasks of this job share.
        seeded: seed and prompt of each student.
        store: where results are kept.
        work: counts steps of runs.
        names: of the branches of guidance, none where they share their rows.
        mixing: how guidance combines them, shape (B,).
        handovers: steps at which another network begins.
    """

    pool: Pool
    setting: StudentSetting
    seeded: Sequence[tuple[int, Any]]
    store: Store
    work: Work
    names: tuple[str, ...] = ()
    mixing: np.ndarray = field(default_factory=lambda: np.ones(1))
    handovers: tuple[int, ...] = ()

    @classmethod
    def begin(
        cls,
        pool: Pool,
        model: AnyModel,
        grid: Grid,
        seeded: Sequence[tuple[int, Any]],
        options: Mapping[str, Any],
        *,
        recorded: str,
        branches: tuple[str, ...],
        teacher_steps: int | None,
        checkpoint: str | os.PathLike[str] | None,
        work: Work,
    ) -> StudentJob:
        """Run the reference of each prompt; its steps are added to the total of ``work``.

        Raises:
            CalibrationError: a teacher that is not finer, workers whose pipelines differ, a checkpoint that cannot be
                read or written, or no number of steps gives runs on ``grid``.
            SamplerError: the scheduler is stochastic, or not linear.
        """
        folder = os.path.abspath(checkpoint) if checkpoint is not None else None
        runs = PromptRuns(model, len(grid), {"output_type": "latent", **options}).identified(pool, len(seeded))
        (found,) = run_units(pool, FindOwnRun(runs, grid, recorded), [Unit("own-run", seeded[0][1])])
        (steps, first_step, shape, handovers, guidance), matrix = split_header(found)
        samples = len(grid) + 1
        references = References(grid, matrix.reshape(samples, samples).copy(), branches, folder)
        runs = replace(runs, steps=steps, guidance=guidance, identity={**runs.identity, "steps": str(steps)})
        setting = StudentSetting(
            runs, references, check_teacher(teacher_steps, steps) or steps, first_step, tuple(shape)
        )
        store = FolderStore(folder) if folder is not None else MemoryStore()
        job = cls(pool, setting, seeded, store, work)
        work.total += len(seeded) * setting.teacher_steps
        branch = json.loads(job.on_all("reference", RunReference(setting), {}, setting.teacher_steps)[0])
        mixing = np.array([float.fromhex(value) for value in branch["mixing"]])
        return replace(job, names=tuple(branch["names"]), mixing=mixing, handovers=tuple(handovers))

    def on_all(self, kind: str, task: Task, more: dict[str, str], each: int = 1, first: int = 0) -> list[bytes]:
        """The results of all prompts, see :func:`on_prompts`; they depend on the references and on ``more``."""
        identity = {**self.setting.identity, **more}
        return on_prompts(
            self.pool,
            task,
            self.seeded,
            kind=kind,
            identity=identity,
            store=self.store,
            work=self.work,
            each=each,
            first=first,
        )
