"""Gates set up for a budget: the threshold that spends it in the mean, on prompts that nobody measures."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foreseer.attach.accelerate import accelerate
from foreseer.calibration.fit_teacache import fit_teacache
from foreseer.errors import ForeseerWarning, PlanError
from foreseer.evaluate.peers.probe import settle
from foreseer.gate import FirstBlock, Gate, GatedPolicy, StepControl, TeaCache
from foreseer.pipelines import call_arguments, run

PROMPTS = ("a lighthouse at dusk", "a bowl of fruit on a wooden table", "a red tram in a narrow street", "two cats")
SEED = 10_000  # of the first of these runs
# By kind of gate: the option that its spending hangs on, and between which values it is sought.
KNOBS: Mapping[type[Gate], tuple[str, float, float]] = {
    TeaCache: ("threshold", 1e-4, 10.0),
    FirstBlock: ("threshold", 1e-4, 4.0),
    StepControl: ("tolerance", 1e-6, 10.0),
}


@dataclass(frozen=True)
class Settled:
    """A gated policy set up for a budget.

    Attributes:
        policy: with the value found.
        knob: the option that was sought.
        value: of it.
        nfe: mean evaluations of the trial runs with it.
    """

    policy: GatedPolicy
    knob: str
    value: float
    nfe: float


@dataclass(frozen=True)
class Trials:
    """Runs of a pipeline on prompts of their own, by which gates are set up.

    Attributes:
        pipe: the pipeline, nothing attached.
        steps: of each run.
        options: keyword arguments of the pipeline's call.
        prompts: by default a few of general kind, or the first classes of a pipeline that draws classes.
        seed: of the first prompt's initial noise; the next has the next.
    """

    pipe: Any
    steps: int
    options: Mapping[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    seed: int = SEED

    def settle(self, policy: GatedPolicy, nfe: float) -> Settled:
        """``policy`` with the value of its gate's knob whose mean evaluations come nearest ``nfe``, by bisection.

        Raises:
            PlanError: the gate has no knob that is known here.
        """
        kind = type(policy.gate)
        if kind not in KNOBS:
            raise PlanError(f"{kind.__name__} is not set up for a budget here: give its options.")
        knob, low, high = KNOBS[kind]

        gate: Any = policy.gate

        def at(value: float) -> GatedPolicy:
            return replace(policy, gate=replace(gate, **{knob: value}))

        value, found = settle(lambda value: self.evaluations(at(value)), nfe, low, high)
        return Settled(at(value), knob, value, found)

    def evaluations(self, policy: GatedPolicy) -> float:
        """Mean evaluations of a run."""
        total = 0
        with warnings.catch_warnings(), accelerate(self.pipe, policy) as handle:
            warnings.simplefilter("ignore", ForeseerWarning)  # a trial may save nothing
            for index, prompt in enumerate(self.words):
                run(self.pipe, call_arguments(self.pipe, prompt, self.call), self.seed + index)
                total += handle.record.nfe if handle.record is not None else 0
        return total / len(self.words)

    def fitted(self, gate: TeaCache) -> TeaCache:
        """``gate`` with coefficients of this pipeline, fitted on the same prompts."""
        call = {name: value for name, value in self.call.items() if name != "num_inference_steps"}
        fit = fit_teacache(self.pipe, self.words, num_inference_steps=self.steps, seed=self.seed, **call)
        return replace(gate, coefficients=fit.coefficients)

    @property
    def words(self) -> list[str]:
        """The prompts."""
        classes: list[str] = list(getattr(self.pipe, "labels", None) or ())
        return list(self.prompts) or classes[: len(PROMPTS)] or list(PROMPTS)

    @property
    def call(self) -> dict[str, Any]:
        """Options of each run; its picture is not needed."""
        given = {**self.options, "num_inference_steps": self.steps}
        if "output_type" in inspect.signature(self.pipe.__call__).parameters:
            given["output_type"] = "latent"
        return given
