"""Rollout on workers: a segment is a barrier, and only moments of features travel."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from foreseer.calibration.jobs import PromptRuns, check_prompts, content, prompt_unit, without_repeats
from foreseer.calibration.rollout import Draft
from foreseer.calibration.rollout_moments import Moments, Share
from foreseer.calibration.students import (
    Advance,
    FindOwnRun,
    ReferenceStart,
    RolloutSetting,
    RunReference,
    decode_branches,
    decode_own_run,
)
from foreseer.errors import CalibrationError
from foreseer.forecast.joint_rows import JointRows
from foreseer.forecast.kernel_rows import BRANCH_WEIGHT
from foreseer.kernel import Kernel
from foreseer.kernel.kernel_file import encode_kernel
from foreseer.plan import Plan
from foreseer.scale import FolderStore, MemoryStore, Task, Unit, run_units
from foreseer.scale.model import AnyModel
from foreseer.scale.place import Pool
from foreseer.schedule import Schedule

Settings = tuple[Schedule, int | None, float, "str | os.PathLike[str] | None"]


def rollout_on(
    pool: Pool,
    model: AnyModel,
    kernel: Kernel,
    seeded: list[tuple[int, str]],
    settings: Settings,
    *,
    options: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> Plan:
    """Fit a plan as :func:`foreseer.rollout` does, with the prompts on workers.

    Args:
        pool: of workers.
        model: of their pipelines.
        kernel: recorded on the grid of the plan.
        seeded: seed and text of each prompt.
        settings: schedule, steps of the teacher, ridge and folder of the checkpoint.
        options: keyword arguments of the pipeline's call.
        progress: called with (network evaluations done, in all).

    Raises:
        CalibrationError: no prompt, a kernel of another site, or workers whose pipelines differ.
    """
    check_prompts([prompt for _, prompt in seeded])
    if kernel.site != "output":
        raise CalibrationError(f"A rollout is for the output site; this kernel is of the site {kernel.site!r}.")
    rule, teacher_steps, ridge, checkpoint = settings
    folder = os.path.abspath(checkpoint) if checkpoint is not None else None
    runs = PromptRuns(model, len(kernel.grid), {**options, "output_type": "latent"}).identified(pool, len(seeded))
    return RolloutJob(pool, runs, kernel, rule, seeded, teacher_steps, folder).run(ridge, progress)


@dataclass
class RolloutJob:
    """One rollout: references, then segment by segment; the end of each phase is a barrier."""

    pool: Pool
    runs: PromptRuns
    kernel: Kernel
    rule: Schedule
    seeded: list[tuple[int, str]]
    teacher_steps: int | None
    folder: str | None
    _identity: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._store = FolderStore(self.folder) if self.folder is not None else MemoryStore()

    def run(self, ridge: float, progress: Callable[[int, int], None] | None) -> Plan:
        """Run the references, then fit the rows of each segment."""
        identity = self.runs.identity
        steps, matrix = self._own_run()
        teacher = self.teacher_steps or steps
        kernel = hashlib.sha256(encode_kernel(self.kernel)).hexdigest()
        self._identity = {**identity, "steps": str(steps), "teacher": str(teacher), "kernel": kernel}
        branches = self.kernel.branches.names if self.kernel.branches is not None else ()
        runs = replace(self.runs, steps=steps, identity={**identity, "steps": str(steps)})
        start = ReferenceStart(self.kernel.grid, matrix, branches, self.folder, teacher)
        setting = RolloutSetting(runs, start, secrets.token_hex(8))
        computed, prompts = self.rule.on(self.kernel.grid), len(self.seeded)
        show = without_repeats(progress, prompts * (teacher + len(computed)))
        results = self._on_all("reference", RunReference(setting), {}, lambda done: show(done * teacher))
        names, mixing = decode_branches(results[0])
        made = {
            "forecaster": f"rollout on {prompts} prompts, ridge {ridge:g}, teacher {self.teacher_steps or 'same'}",
            "schedule": repr(self.rule),
            "guidance": identity["guidance"],
            "steps": str(steps),
        }
        draft = Draft(self.kernel, self.rule, names, mixing, made)
        return self._fitted(draft, setting, ridge, lambda done: show(prompts * teacher + done))

    def _own_run(self) -> tuple[int, np.ndarray]:
        """How many steps to ask for, and the sampler matrix; from the first prompt."""
        task = FindOwnRun(self.runs, self.kernel.grid, self.kernel.provenance.get("steps", ""))
        (result,) = run_units(self.pool, task, [Unit("own-run", self.seeded[0][1])])
        return decode_own_run(content(result))

    def _fitted(self, draft: Draft, setting: RolloutSetting, ridge: float, show: Callable[[int], None]) -> Plan:
        """Roll the students from computed step to computed step, fitting the rows of each segment on the way."""
        branches, total, prompts = len(draft.mixing), len(self.kernel.grid), len(self.seeded)
        moments = Moments.none(branches, setting.start.matrix)
        branch_weight = BRANCH_WEIGHT if branches > 1 else 0.0
        rows = JointRows(
            moments, draft.mixing, draft.steps, total, ridge=ridge, branch_weight=branch_weight, feedback_gain=1.0
        )
        path: list[tuple[int, tuple[str, ...]]] = []
        for segment, (step, end) in enumerate(itertools.pairwise((*draft.computed, total))):
            newest = [b for b in range(branches) if step in draft.steps[b]]
            path.append((step, tuple(draft.names[b] for b in newest) if draft.names else ()))
            task = Advance(setting, draft.names, draft.plan(rows), tuple(path))
            shares = self._on_all(
                f"segment-{segment:03d}",
                task,
                {"rows": _digest(rows), "path": json.dumps(path), "names": json.dumps(draft.names)},
                lambda done, before=segment * prompts: show(before + done),
            )
            moments.grow_by([Share.decode(share) for share in shares], [total * b + step for b in newest])
            rows.fit(step, end)
        return draft.plan(rows)

    def _on_all(self, kind: str, task: Task, more: dict[str, str], show: Callable[[int], None]) -> list[bytes]:
        """The results of all prompts, in their order."""
        units = [
            prompt_unit(kind, index, prompt, seed, {**self._identity, **more}, home=True)
            for index, (seed, prompt) in enumerate(self.seeded)
        ]
        progress = lambda done, total, state: show(done)  # noqa: E731
        results = run_units(self.pool, task, units, store=self._store, progress=progress)
        return [content(result) for result in results]


def _digest(rows: JointRows) -> str:
    """Digest of the rows fitted so far."""
    digest = hashlib.sha256(rows.rows.tobytes())
    for branches in sorted(rows.cross):
        digest.update(f"{branches} ".encode() + rows.cross[branches].tobytes())
    return digest.hexdigest()
