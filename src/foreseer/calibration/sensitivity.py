"""Measuring the network's sensitivity to errors of the sample, with a few accelerated runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.attach.accelerate import accelerate
from foreseer.calibration.record import record_run
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.kernel import Kernel
from foreseer.kernel.expected import final_errors
from foreseer.pipelines import call_arguments, run
from foreseer.plan import Policy
from foreseer.schedule import Schedule, Uniform
from foreseer.schedule.optimal import Optimal

LEAST_STEPS = 8  # with fewer steps the plans to measure with coincide
CANDIDATES = (0.0, *np.geomspace(0.25, 128.0, 109).tolist())


def measure_sensitivity(
    pipe: Any,
    kernel: Kernel,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda prompts: None,
    **options: Any,
) -> Kernel:
    r"""Return ``kernel`` with the sensitivity that best explains the final errors of accelerated runs.

    Each prompt is sampled with every step computed and under three plans of kernel rows. The sensitivity a, the only
    unknown of :func:`foreseer.kernel.expected.final_errors`, minimises the mean square over plans of
    $\log e_{\text{expected}} - \log e_{\text{measured}}$, both root mean squares over prompts.

    Args:
        pipe: a diffusers pipeline, not attached.
        kernel: recorded with this pipeline and the same options.
        prompts: four suffice; each costs about 1.6 full runs.
        seed: seed of the first prompt's initial noise; each further prompt uses the next seed.
        progress: called with the number of prompts done.
        options: keyword arguments of the pipeline's call.
    """
    if not kernel.has_final_error or len(kernel.grid) < LEAST_STEPS:
        return kernel
    call = {**options, "output_type": "latent"}
    rows = KernelRows(kernel)
    site: Any = kernel.site
    policies = [Policy(schedule, rows, site) for schedule in _schedules(kernel)]
    variants = [replace(kernel, sensitivity=sensitivity) for sensitivity in (0.0, 1.0)]
    squares = np.zeros((3, len(policies)))  # open loop, propagated at sensitivity 1, measured
    for index, prompt in enumerate(prompts):
        progress(index)
        reference = _final_sample(pipe, prompt, seed + index, call)
        for number, policy in enumerate(policies):
            with accelerate(pipe, policy):
                sample = _final_sample(pipe, prompt, seed + index, call)
            squares[2, number] += float(np.mean((sample - reference) ** 2)) / len(prompts)
    for number, policy in enumerate(policies):
        plan = policy.compile(kernel.grid)
        plan_rows = plan.rows, plan.branch_rows, plan.cross_rows
        expected = [float(np.mean(final_errors(variant, *plan_rows) ** 2)) for variant in variants]
        squares[:2, number] = expected[0], expected[1] - expected[0]
    return replace(kernel, sensitivity=best_sensitivity(*squares))


def _schedules(kernel: Kernel) -> Iterator[Schedule]:
    """Yield three schedules with few computed steps: even, with a warm-up, and searched."""
    steps = len(kernel.grid)
    yield Uniform.for_nfe(max(2, steps // 5), steps)
    yield Uniform.for_nfe(max(3, steps // 7), steps, warmup=2)
    yield Optimal(kernel, nfe=max(2, steps // 6))


def _final_sample(pipe: Any, prompt: str, seed: int, call: dict[str, Any]) -> Float64[np.ndarray, " D"]:
    with record_run(pipe) as trajectory:
        run(pipe, call_arguments(pipe, prompt, call), seed)
    assert trajectory.sample is not None
    return trajectory.sample.detach().double().reshape(-1).cpu().numpy()


def best_sensitivity(open_loop: np.ndarray, propagated: np.ndarray, measured: np.ndarray) -> float:
    """Return the sensitivity whose expected errors have the least mean squared log ratio to measured."""
    tiny = np.finfo(np.float64).tiny

    def misfit(sensitivity: float) -> float:
        expected = open_loop + sensitivity**2 * propagated
        return float(np.mean((np.log(expected + tiny) - np.log(measured + tiny)) ** 2))

    return min(CANDIDATES, key=misfit)
