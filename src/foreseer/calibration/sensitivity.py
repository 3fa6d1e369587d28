"""Measuring how runs with forecasts differ from recorded ones, with a few accelerated runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.attach.accelerate import attach
from foreseer.calibration.jobs import PromptRuns, content, prompt_unit
from foreseer.calibration.record import record_run
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.kernel import Kernel
from foreseer.kernel.expected import final_errors
from foreseer.kernel.kernel_file import encode_kernel
from foreseer.methods.learned import rows_on, schedule_with_feedback
from foreseer.pipelines import call_arguments, run
from foreseer.plan import Policy
from foreseer.scale import Store, Task, Unit, Worker, run_units
from foreseer.scale.place import Pool
from foreseer.scale.units import Progress
from foreseer.schedule import Schedule, Uniform
from foreseer.schedule.optimal import Optimal

LEAST_STEPS = 8  # with fewer steps the plans to measure with coincide
DRIFTS = (0.0, 0.1, 0.3, 1.0, 3.0)
MEASURING = 3.6  # forward passes per prompt, of its reference and its runs under each plan, in multiples of the steps
CANDIDATES = (0.0, *np.geomspace(0.25, 128.0, 109).tolist())


def measure_sensitivity(
    pool: Pool,
    runs: PromptRuns,
    kernel: Kernel,
    prompts: Sequence[Any],
    *,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Kernel:
    r"""Return ``kernel`` with the sensitivity and the drift that suit the final errors of accelerated runs.

    Each prompt is sampled with every step computed and under three plans of kernel rows. The sensitivity a, the only
    unknown of :func:`foreseer.kernel.expected.final_errors`, minimises the mean square over plans of
    $\log e_{\text{expected}} - \log e_{\text{measured}}$, both root mean squares over prompts. The drift is the one of
    `DRIFTS` under which plans of two budgets have the least error, as a geometric mean over prompts and budgets.

    Args:
        pool: of workers.
        runs: how the pipeline is called.
        kernel: recorded with this pipeline and the same options.
        prompts: four suffice; each costs about 3.5 full runs.
        seed: seed of the first prompt's initial noise; each further prompt uses the next seed.
        store: where what was measured per prompt is kept.
        progress: called with prompts done, prompts in all, and a state.
    """
    if not kernel.has_final_error or len(kernel.grid) < LEAST_STEPS:
        return kernel
    identity = {
        **kernel.provenance,
        "drifts": repr(DRIFTS),
        "kernel": hashlib.sha256(encode_kernel(kernel)).hexdigest(),
    }
    units = [prompt_unit("sensitivity", index, prompt, seed + index, identity) for index, prompt in enumerate(prompts)]
    results = run_units(pool, MeasureErrors(runs, kernel), units, store=store, progress=progress)
    variants = [replace(kernel, sensitivity=sensitivity) for sensitivity in (0.0, 1.0)]
    policies = _policies(kernel)
    squares = np.zeros((3, len(policies)))  # open loop, propagated at sensitivity 1, measured
    measured = np.array([np.frombuffer(content(result)) for result in results])
    squares[2] = measured[:, : len(policies)].mean(axis=0)
    drift = best_drift(measured[:, len(policies) :].reshape(len(results), -1, len(DRIFTS)))
    for number, policy in enumerate(policies):
        plan = policy.compile(kernel.grid)
        plan_rows = plan.rows, plan.branch_rows, plan.cross_rows
        expected = [float(np.mean(final_errors(variant, *plan_rows) ** 2)) for variant in variants]
        squares[:2, number] = expected[0], expected[1] - expected[0]
    return replace(kernel, sensitivity=best_sensitivity(*squares), drift=drift)


@dataclass(frozen=True)
class MeasureErrors(Task):
    """The mean square error of a prompt's final sample under each plan; the result is that many float64."""

    runs: PromptRuns
    kernel: Kernel

    @cached_property
    def policies(self) -> list[Policy]:
        """The plans' policies; the search for their steps is done once per worker."""
        return [*_policies(self.kernel), *_trials(self.kernel)]

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """Sample once with every step computed, and once under each plan."""
        prompt, seed = unit.payload
        pipe, options = self.runs.on(worker)
        call = self.runs.call(options)
        reference = _final_sample(pipe, prompt, seed, call)
        squares = []
        for policy in self.policies:
            with attach(pipe, policy, on_other_guidance="ignore"):
                sample = _final_sample(pipe, prompt, seed, call)
            squares.append(float(np.mean((sample - reference) ** 2)))
        return np.array(squares).tobytes()


def _policies(kernel: Kernel) -> list[Policy]:
    site: Any = kernel.site
    return [Policy(schedule, KernelRows(kernel), site) for schedule in _schedules(kernel)]


def _schedules(kernel: Kernel) -> Iterator[Schedule]:
    """Yield three schedules with few computed steps: even, with a warm-up, and searched."""
    steps = len(kernel.grid)
    yield Uniform.for_nfe(max(2, steps // 5), steps)
    yield Uniform.for_nfe(max(3, steps // 7), steps, warmup=2)
    yield Optimal(kernel, nfe=max(2, steps // 6))


def _trials(kernel: Kernel) -> Iterator[Policy]:
    """Yield for two budgets the policies of learned rows under each drift."""
    steps = len(kernel.grid)
    for nfe in (max(3, steps // 6), max(5, steps // 4)):
        schedule = schedule_with_feedback(kernel, nfe=nfe)
        for drift in DRIFTS:
            yield rows_on(replace(kernel, drift=drift), schedule)


def _final_sample(pipe: Any, prompt: Any, seed: int, call: dict[str, Any]) -> Float64[np.ndarray, " D"]:
    with record_run(pipe) as trajectory:
        run(pipe, call_arguments(pipe, prompt, call), seed)
    assert trajectory.sample is not None
    return trajectory.sample.detach().double().reshape(-1).cpu().numpy()


def best_drift(squares: Float64[np.ndarray, "P B C"]) -> float:
    """Return the drift whose squared errors, of P prompts under B budgets, have the least mean logarithm."""
    return DRIFTS[int(np.argmin(np.log(np.maximum(squares, np.finfo(np.float64).tiny)).mean(axis=(0, 1))))]


def best_sensitivity(open_loop: np.ndarray, propagated: np.ndarray, measured: np.ndarray) -> float:
    """Return the sensitivity whose expected errors have the least mean squared log ratio to measured."""
    tiny = np.finfo(np.float64).tiny

    def misfit(sensitivity: float) -> float:
        expected = open_loop + sensitivity**2 * propagated
        return float(np.mean((np.log(expected + tiny) - np.log(measured + tiny)) ** 2))

    return min(CANDIDATES, key=misfit)
