"""Trial runs: what a peer's settings cost, and the threshold whose cost comes nearest a budget."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from foreseer import zoo
from foreseer.errors import in_one_line
from foreseer.evaluate.contender import Contender
from foreseer.evaluate.cost import DenoiserCost, count_denoiser
from foreseer.evaluate.peers.base import PeerError, free_denoisers
from foreseer.evaluate.peers.calibration_runs import CalibrationPrompts, CalibrationRuns
from foreseer.pipelines import call_arguments, run

PROMPT = "a lighthouse at dusk"
# Within this many evaluations of the budget no other threshold comes nearer: one step more or less costs about 0.85.
_NEAR_ENOUGH = 0.42


@dataclass
class Probe:
    """A prompt on which settings are found. Its reference and ratios are computed once: share it between peers.

    Attributes:
        pipe: the pipeline, nothing attached.
        steps: of the reference.
        prompt: not one that is measured.
        options: keyword arguments of the pipeline's call, as the bench uses them.
        seed: of the initial noise.
        found: what peers calibrated, by name.
        calibration_prompts: prompts for peers that learn; ``None`` where none may.
    """

    pipe: Any
    steps: int
    prompt: str = PROMPT
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    found: dict[str, Any] = field(default_factory=dict)
    calibration_prompts: CalibrationPrompts | None = None

    @classmethod
    def of(
        cls,
        pipe: Any,
        steps: int,
        options: dict[str, Any] | None = None,
        calibration_prompts: CalibrationPrompts | None = None,
    ) -> Probe:
        """The pipeline's own call options (``sampling.json`` of its folder) where none are given."""
        if options is None:
            folder = pipe.config.get("_name_or_path", "") if hasattr(pipe, "config") else ""
            options = zoo.sampling(folder) if folder else {}
        call = {name: value for name, value in options.items() if name != "prompts"}
        return cls(pipe, steps, options=call, calibration_prompts=calibration_prompts)

    @cached_property
    def runs(self) -> CalibrationRuns:
        """Runs of the pipeline on the calibration prompts, and its noise levels."""
        free_denoisers(self.pipe)
        return CalibrationRuns(self.pipe, self.steps, self.calibration_prompts, self.options, self.prompt)

    def run(self, contender: Contender | None = None) -> DenoiserCost:
        """One run, with every step computed or under a contender; what its denoisers computed."""
        given = {**self.options, "num_inference_steps": contender.steps if contender is not None else self.steps}
        if "output_type" in inspect.signature(self.pipe.__call__).parameters:
            given["output_type"] = "latent"
        arguments = call_arguments(self.pipe, self.prompt, given)
        attached = contender.attached(self.pipe) if contender is not None else nullcontext()
        with attached, count_denoiser(self.pipe) as cost:
            run(self.pipe, arguments, self.seed)
        return cost

    @cached_property
    def reference(self) -> DenoiserCost:
        """Of the run that computes every step."""
        free_denoisers(self.pipe)
        cost = self.run()
        self.found["timesteps"] = [float(time) for time in self.pipe.scheduler.timesteps]
        return cost

    @property
    def timesteps(self) -> list[float]:
        """Those of the reference."""
        return self.reference and self.found["timesteps"]

    @property
    def branches(self) -> float:
        """Forward passes a step."""
        return self.reference.calls / self.steps

    def evaluations(self, contender: Contender) -> float:
        """The contender's FLOPs over those of one evaluation of the reference.

        Raises:
            PeerError: the run failed.
        """
        one = self.reference.flops / self.steps
        try:
            return self.run(contender).flops / one
        except PeerError:
            raise
        except Exception as error:
            raise PeerError(f"{contender.title} fails on {type(self.pipe).__name__} ({in_one_line(error)}).") from error


def settle(
    evaluations: Callable[[float], float], budget: float, low: float, high: float, runs: int = 12
) -> tuple[float, float]:
    """The threshold in [low, high] whose evaluations come nearest ``budget``, and these.

    Bisection in the logarithm, since thresholds scale. Evaluations fall in jumps as the threshold rises, so the budget
    itself may be out of reach; the nearest value seen is taken.

    Args:
        evaluations: of one run at a threshold, in evaluations of the full network (by FLOPs).
        budget: evaluations asked for.
        low: least threshold, above 0.
        high: largest threshold.
        runs: at most this many.

    >>> settle(lambda threshold: 50 / threshold, 10, low=1, high=25)
    (5.0, 10.0)
    """
    best = (math.inf, low, math.inf)
    for _ in range(runs):
        threshold = math.sqrt(low * high)
        found = evaluations(threshold)
        best = min(best, (abs(found - budget), threshold, found))
        if best[0] <= _NEAR_ENOUGH:
            break
        low, high = (threshold, high) if found > budget else (low, threshold)
    return best[1], best[2]
