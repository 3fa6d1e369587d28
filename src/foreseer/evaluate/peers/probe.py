"""Trial runs that measure what a peer's settings cost."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from foreseer import zoo
from foreseer.errors import in_one_line
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.entries.trial_prompts import trial_prompts
from foreseer.evaluate.peers.base import PeerError, free_denoisers
from foreseer.evaluate.peers.calibration_runs import CalibrationPrompts, CalibrationRuns
from foreseer.evaluate.sampling.cost import DenoiserCost, count_denoiser
from foreseer.pipelines import call_arguments, run


@dataclass
class Probe:
    """Trial runs of one prompt; shared between peers, so that its reference is run once.

    Attributes:
        pipe: the pipeline with nothing attached.
        steps: steps of the reference.
        prompt: prompt of the trial runs, preferably one that is not measured.
        options: keyword arguments of the pipeline's call, as the bench uses them.
        seed: seed of the initial noise.
        calibrated: results of peers' calibrations, by name.
        calibration_prompts: prompts for peers that learn, else ``None``.
    """

    pipe: Any
    steps: int
    prompt: str
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    calibrated: dict[str, Any] = field(default_factory=dict)
    calibration_prompts: CalibrationPrompts | None = None

    @classmethod
    def of(
        cls,
        pipe: Any,
        steps: int,
        options: dict[str, Any] | None = None,
        calibration_prompts: CalibrationPrompts | None = None,
    ) -> Probe:
        """Set up trial runs with the call options and a prompt of the pipeline's folder where none are given."""
        folder = pipe.config.get("_name_or_path", "") if hasattr(pipe, "config") else ""
        sampling = zoo.sampling(folder) if folder else {}
        call = dict(sampling if options is None else options)
        call.pop("prompts", None)
        prompt = trial_prompts(pipe, sampling.get("prompts", ()))[0]
        return cls(pipe, steps, prompt, call, calibration_prompts=calibration_prompts)

    @cached_property
    def runs(self) -> CalibrationRuns:
        """Runs of the pipeline on the calibration prompts, and its noise levels."""
        free_denoisers(self.pipe)
        return CalibrationRuns(self.pipe, self.steps, self.calibration_prompts, self.options, self.prompt)

    def run(self, entry: Entry | None = None) -> DenoiserCost:
        """Make one run, with every step computed or under an entry, and count its denoisers' operations."""
        options = {**self.options, "num_inference_steps": entry.steps if entry is not None else self.steps}
        if "output_type" in inspect.signature(self.pipe.__call__).parameters:
            options["output_type"] = "latent"
        arguments = call_arguments(self.pipe, self.prompt, options)
        attached = entry.attached(self.pipe) if entry is not None else nullcontext()
        with attached, count_denoiser(self.pipe) as cost:
            run(self.pipe, arguments, self.seed)
        return cost

    @cached_property
    def reference(self) -> DenoiserCost:
        """Cost of the run that computes every step."""
        free_denoisers(self.pipe)
        cost = self.run()
        self.calibrated["timesteps"] = [float(time) for time in self.pipe.scheduler.timesteps]
        return cost

    @property
    def timesteps(self) -> list[float]:
        """Timesteps of the reference, as the scheduler counts them."""
        return self.reference and self.calibrated["timesteps"]

    @property
    def branches(self) -> float:
        """Forward passes per computed step."""
        return self.reference.calls / self.steps

    def nfe_by_flops(self, entry: Entry) -> float:
        """Run an entry and divide its FLOPs by those of one computed step of the reference.

        Raises:
            PeerError: the run failed.
        """
        step_flops = self.reference.flops / self.steps
        try:
            return self.run(entry).flops / step_flops
        except PeerError:
            raise
        except Exception as error:
            raise PeerError(f"{entry.title} fails on {type(self.pipe).__name__} ({in_one_line(error)}).") from error
