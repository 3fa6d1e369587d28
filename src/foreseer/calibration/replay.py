"""Runs of a prompt under a plan, in which network outputs that are known already are replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foreseer.attach.accelerate import attach
from foreseer.attach.network.call import NetworkCall
from foreseer.attach.network.containers import flatten, rebuild
from foreseer.attach.network.verification import copied
from foreseer.attach.run.tracker import TrackedBranch
from foreseer.attach.sites.output import OutputSite
from foreseer.calibration.record import Trajectory, record_run
from foreseer.errors import CalibrationError, FailedOpenError
from foreseer.grid import Grid
from foreseer.pipelines import call_arguments, run
from foreseer.plan import Plan
from foreseer.runtime.branch import copied_inputs, first_sample

CARRIED = 0.01  # relative; half precision rounds by less
Outputs = dict[tuple[str, int], Any]


class DivergedError(CalibrationError):
    """Under the rows of a plan, a sample leaves the region in which the network's output is finite."""


class ReplaySite(OutputSite):
    """Output site that replays the network's outputs at steps it has seen, for all branches.

    Attributes:
        outputs: by branch name and step of the run, what the network returned.
        forward_passes: calls of the network that were not replayed.
        starts: by branch name, the network's first input of the shape of its output, where it has one.
    """

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        self.forward_passes = 0
        self.starts: dict[str, Tensor | None] = {}

    def compute(self, call: NetworkCall, branch: TrackedBranch) -> tuple[Any, list[Tensor]]:
        """Replay the step, or run the network and keep a copy of its output."""
        key = (branch.name, branch.run.last_step + 1)
        first = branch.name not in self.starts
        inputs = copied_inputs((*call.args, *call.kwargs.values())) if first else ()
        if key not in self.outputs:
            self.forward_passes += 1
            output = call.run()
            tensors = copied(output)
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                raise DivergedError(f"Under this plan the network's output at step {key[1]} is not finite.")
            self.outputs[key] = rebuild(output, iter(tensors))
        if first:
            self.starts[branch.name] = first_sample(inputs, next(iter(flatten(self.outputs[key]))))
        return super().compute(NetworkCall(lambda *args, **kwargs: self.outputs[key], call.args, call.kwargs), branch)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a prompt under a plan.

    Attributes:
        trajectory: what the scheduler was given, and the last sample.
        outputs: by branch name and step of the run, the network's outputs at computed steps.
        forward_passes: calls of the network, replayed ones left out.
        start: the first sample as every branch of the network receives it, flattened; ``None`` where they differ.
    """

    trajectory: Trajectory
    outputs: Outputs = field(repr=False)
    forward_passes: int
    start: Tensor | None = field(default=None, repr=False)

    def until(self, step: int) -> Outputs:
        """The outputs up to ``step`` of the plan's grid, in a new dictionary."""
        last = step + self.trajectory.first_step
        return {key: output for key, output in self.outputs.items() if key[1] <= last}

    @property
    def carries_start(self) -> bool:
        """Whether a sample added to all of the network's first outputs reaches the scheduler as it is.

        True of the network's own output and of classifier-free guidance; not where a pipeline changes the sign of the
        output, or normalises it.
        """
        given = self.trajectory.outputs[0].double()
        parts = [
            part.double()
            for (_, step), output in self.outputs.items()
            if step == self.trajectory.first_step
            for part in flatten(output)[0].reshape(-1).split(given.numel())
        ]
        if not parts or any(part.shape != given.shape for part in parts) or not given.any():
            return False
        columns = torch.stack(parts, dim=1)
        share = torch.linalg.lstsq(columns.cpu(), given.cpu()[:, None], driver="gelsd").solution
        missed = (columns.cpu() @ share - given.cpu()[:, None]).norm() / given.cpu().norm()
        return bool(missed < CARRIED and abs(float(share.sum()) - 1.0) < CARRIED)

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches of guidance, in the order of their first calls."""
        return tuple(dict.fromkeys(name for name, _ in self.outputs))


def run_plan(
    pipe: Any,
    plan: Plan,
    prompt: Any,
    seed: int,
    call: Mapping[str, Any],
    *,
    outputs: Outputs | None = None,
    stop_after: int | None = None,
) -> PlannedRun:
    """Run ``prompt`` under ``plan``, replaying known outputs and adding new ones to ``outputs``.

    Args:
        pipe: a diffusers pipeline, not attached.
        plan: output site, on the grid of the run.
        prompt: its text.
        seed: of the initial noise.
        call: options of the pipeline's call.
        outputs: known outputs; they must belong to the same prompt and seed, and to the same rows before their steps.
        stop_after: end the run once this many steps were taken.

    Raises:
        CalibrationError: a step that the plan forecasts would have been computed.
        DivergedError: the network's output is not finite.
    """
    site = ReplaySite({} if outputs is None else outputs)
    try:
        with (
            attach(pipe, plan, strict=True, make_site=lambda module: site, on_other_guidance="ignore"),
            record_run(pipe, stop_after) as trajectory,
        ):
            run(pipe, call_arguments(pipe, prompt, dict(call)), seed)
    except FailedOpenError as error:
        raise CalibrationError(
            f"Fitting needs runs that follow one plan from beginning to end, and this one does not: {error} "
            "Kernel rows (fs.learned) serve such runs. Where one network takes over from another, rows must not use "
            "the features of both: make the plan with fs.rollout."
        ) from error
    start = _common_start([*site.starts.values()], trajectory.outputs[0].numel())
    return PlannedRun(trajectory, site.outputs, site.forward_passes, start)


def _common_start(starts: list[Tensor | None], size: int) -> Tensor | None:
    """Return the sample that all branches begin with, also where one call holds several of them."""
    parts = [part for start in starts if start is not None for part in start.reshape(-1).split(size)]
    known = bool(parts) and all(start is not None for start in starts)
    return parts[0] if known and all(torch.equal(part, parts[0]) for part in parts) and len(parts[0]) == size else None


def find_call(
    pipe: Any, prompt: Any, grid: Grid, options: Mapping[str, Any], recorded: str = ""
) -> tuple[dict[str, Any], Trajectory]:
    """Options of a call whose run has as many steps as ``grid``, and the first step of such a run.

    A run that begins from a picture takes a share of the steps that it is asked for; ``recorded`` says how many those
    were.

    Args:
        pipe: a diffusers pipeline, not attached.
        prompt: any of the prompts.
        grid: the noise levels that the run must visit.
        options: keyword arguments of the pipeline's call.
        recorded: ``num_inference_steps`` of the runs that the grid was recorded from, where that is known.

    Raises:
        CalibrationError: no number of steps gives a run of the grid's length.
    """
    wanted = len(grid)
    if str(options.get("num_inference_steps", wanted)) not in (str(wanted), recorded):
        raise CalibrationError(
            f"The grid has {wanted} steps, and num_inference_steps is {options['num_inference_steps']}: leave it out, "
            "or calibrate with that many."
        )
    lengths = []
    for steps in dict.fromkeys((wanted, int(recorded) if recorded.isdecimal() else wanted)):
        call = {**options, "num_inference_steps": steps}
        with record_run(pipe, stop_after=1) as trajectory:
            run(pipe, call_arguments(pipe, prompt, call), seed=0)
        if len(trajectory.grid) == wanted:
            return call, trajectory
        lengths.append(f"{len(trajectory.grid)} of {steps}")
    raise CalibrationError(
        f"The grid has {wanted} steps, this pipeline's run {' or '.join(lengths)}: give the options that it was "
        "recorded with (a kernel's provenance has them)."
    )
