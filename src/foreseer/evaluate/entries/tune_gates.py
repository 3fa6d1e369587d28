"""Find the threshold at which a gate meets a budget in the mean, by trial runs."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foreseer.attach.accelerate import accelerate
from foreseer.calibration.fit_teacache import fit_teacache
from foreseer.errors import ForeseerWarning, PlanError
from foreseer.evaluate.entries.trial_prompts import trial_prompts
from foreseer.gate import FirstBlock, Gate, GatedPolicy, StepControl, TeaCache
from foreseer.pipelines import call_arguments, run

# A threshold whose mean NFE is this near the budget is accepted: one step more or less changes it by about 0.85.
NEAR_ENOUGH = 0.42
SEED = 10_000  # seed of the first trial run
# By kind of gate: the option that controls its NFE, and the range in which it is sought.
KNOBS: Mapping[type[Gate], tuple[str, float, float]] = {
    TeaCache: ("threshold", 1e-4, 10.0),
    FirstBlock: ("threshold", 1e-4, 4.0),
    StepControl: ("tolerance", 1e-6, 10.0),
}


@dataclass(frozen=True)
class TunedGate:
    """Gated policy tuned to a budget.

    Attributes:
        policy: the policy with the tuned gate.
        knob: name of the tuned option.
        value: value of that option.
        nfe: mean NFE of the trial runs at that value.
    """

    policy: GatedPolicy
    knob: str
    value: float
    nfe: float


@dataclass(frozen=True)
class GateTuning:
    """Trial runs of a pipeline that tune gates.

    Attributes:
        pipe: the pipeline with nothing attached.
        steps: steps of each run.
        options: keyword arguments of the pipeline's call.
        prompts: by default the classes of a pipeline that draws classes, else a few neutral ones.
        seed: seed of the first prompt's initial noise; each next prompt adds one.
    """

    pipe: Any
    steps: int
    options: Mapping[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    seed: int = SEED

    def tune(self, policy: GatedPolicy, nfe: float) -> TunedGate:
        """Bisect the gate's knob for the value whose mean NFE is nearest ``nfe``.

        Raises:
            PlanError: the kind of gate has no entry in ``KNOBS``.
        """
        kind = type(policy.gate)
        if kind not in KNOBS:
            tunable = ", ".join(gate.__name__ for gate in KNOBS)
            raise PlanError(f"{kind.__name__} cannot be tuned to a budget; expected one of {tunable}. Set its options.")
        knob, low, high = KNOBS[kind]
        gate: Any = policy.gate

        def at(value: float) -> GatedPolicy:
            return replace(policy, gate=replace(gate, **{knob: value}))

        value, mean_nfe = bisect(lambda value: self.mean_nfe(at(value)), nfe, low, high)
        return TunedGate(at(value), knob, value, mean_nfe)

    def mean_nfe(self, policy: GatedPolicy) -> float:
        """Run every trial prompt and return the mean NFE."""
        total = 0
        prompts = self.trial_prompts
        with warnings.catch_warnings(), accelerate(self.pipe, policy) as handle:
            warnings.simplefilter("ignore", ForeseerWarning)  # a trial may save nothing
            for index, prompt in enumerate(prompts):
                run(self.pipe, call_arguments(self.pipe, prompt, self.call), self.seed + index)
                total += handle.record.nfe if handle.record is not None else 0
        return total / len(prompts)

    def fitted(self, gate: TeaCache) -> TeaCache:
        """Return ``gate`` with coefficients fitted to this pipeline on the trial prompts."""
        call = {name: value for name, value in self.call.items() if name != "num_inference_steps"}
        fit = fit_teacache(self.pipe, self.trial_prompts, num_inference_steps=self.steps, seed=self.seed, **call)
        return replace(gate, coefficients=fit.coefficients)

    @property
    def trial_prompts(self) -> list[str]:
        """Prompts of the trial runs."""
        return list(self.prompts) or trial_prompts(self.pipe)

    @property
    def call(self) -> dict[str, Any]:
        """Keyword arguments of each run, which ends at the latent where the pipeline can."""
        options = {**self.options, "num_inference_steps": self.steps}
        if "output_type" in inspect.signature(self.pipe.__call__).parameters:
            options["output_type"] = "latent"
        return options


def bisect(
    nfe_at: Callable[[float], float], budget: float, low: float, high: float, runs: int = 12
) -> tuple[float, float]:
    """Find the threshold in [low, high] whose NFE is nearest ``budget``; return threshold and NFE.

    Bisects the logarithm of the threshold. NFE falls in jumps as the threshold rises, so the budget itself may be out
    of reach: the nearest value seen is returned.

    Args:
        nfe_at: NFE of a run at a threshold (by FLOPs where parts of the network are skipped).
        budget: NFE asked for.
        low: least threshold, above 0.
        high: largest threshold.
        runs: largest number of calls of ``nfe_at``.

    >>> bisect(lambda threshold: 50 / threshold, 10, low=1, high=25)
    (5.0, 10.0)
    """
    best = (math.inf, low, math.inf)
    for _ in range(runs):
        threshold = math.sqrt(low * high)
        nfe = nfe_at(threshold)
        best = min(best, (abs(nfe - budget), threshold, nfe))
        if best[0] <= NEAR_ENOUGH:
            break
        low, high = (threshold, high) if nfe > budget else (low, threshold)
    return best[1], best[2]
