"""What refinement needs of a run under its plan before it begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreseer.attach.network.containers import flatten
from foreseer.calibration.error_derivatives import relative_rounding
from foreseer.calibration.find_handovers import find_handovers
from foreseer.calibration.jobs import PromptRuns, with_header
from foreseer.calibration.record import Trajectory
from foreseer.calibration.replay import run_plan
from foreseer.calibration.sampler import SamplerError, sampler_matrix
from foreseer.plan import Plan
from foreseer.scale import Task, Unit, Worker


@dataclass(frozen=True)
class FindPlannedRun(Task):
    """A run under the plan; the unit's payload is a prompt and its seed."""

    runs: PromptRuns
    plan: Plan
    recorded: str

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """Steps, branches, forward passes, rounding, handovers and guidance as JSON, then effects as float64."""
        prompt, seed = unit.payload
        pipe, call, first = self.runs.find(worker, prompt, self.plan.grid, self.recorded)
        found = run_plan(pipe, self.plan, prompt, seed, call)
        rounding = relative_rounding(*(each.dtype for output in found.outputs.values() for each in flatten(output)))
        handovers = find_handovers(pipe, prompt, call, len(self.plan.grid))
        steps = int(call["num_inference_steps"])
        header = [steps, found.branches, found.forward_passes, rounding, handovers, first.guidance]
        return with_header(header, _effects(first, len(self.plan.grid)))


def _effects(first: Trajectory, steps: int) -> np.ndarray:
    """Effects of outputs on samples; equal ones where the scheduler is not linear."""
    try:
        return sampler_matrix(first.scheduler, first_step=first.first_step)[:, 1:]
    except SamplerError:
        return np.ones((steps + 1, steps))
