"""How strongly a pipeline's network answers an error of the sample: measured on a few accelerated runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.attach.accelerate import accelerate
from foreseer.calibration.record import record_run
from foreseer.forecast.kernel import KernelRows
from foreseer.kernel import Kernel
from foreseer.kernel.expected import final_errors
from foreseer.pipelines import call_arguments, run
from foreseer.plan import Policy
from foreseer.schedule import Schedule, Uniform
from foreseer.schedule.optimal import Optimal

LEAST_STEPS = 8  # below that, the plans to measure with are one and the same
CANDIDATES = (0.0, *np.geomspace(0.25, 128.0, 109).tolist())


def measure_response(
    pipe: Any,
    kernel: Kernel,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda prompts: None,
    **options: Any,
) -> Kernel:
    r"""``kernel`` with the response that explains the final errors of accelerated runs best.

    Each prompt is sampled with every step computed and under three plans of kernel rows. Of what
    :func:`foreseer.kernel.expected.final_errors` expects, the response a alone is unknown: chosen is the one with the
    least mean square over plans of $\log e_{\text{expected}} - \log e_{\text{measured}}$, both root mean squares over
    prompts.

    Args:
        pipe: a diffusers pipeline, not attached.
        kernel: recorded with it, with the same options.
        prompts: four will do; each costs about 1.6 full runs.
        seed: of the first prompt's initial noise; the next has the next.
        progress: called with the number of prompts done.
        options: keyword arguments of the pipeline's call.
    """
    if not kernel.knows_final_error or len(kernel.grid) < LEAST_STEPS:
        return kernel
    call = {**options, "output_type": "latent"}
    rows = KernelRows(kernel)
    site: Any = kernel.site
    policies = [Policy(schedule, rows, site) for schedule in _schedules(kernel)]
    still, answered = (replace(kernel, response=response) for response in (0.0, 1.0))
    squares = np.zeros((3, len(policies)))  # open loop, answers, measured
    for index, prompt in enumerate(prompts):
        progress(index)
        truth = _final_sample(pipe, prompt, seed + index, call)
        for number, policy in enumerate(policies):
            with accelerate(pipe, policy):
                found = _final_sample(pipe, prompt, seed + index, call)
            squares[2, number] += float(np.mean((found - truth) ** 2)) / len(prompts)
    for number, policy in enumerate(policies):
        plan = policy.compile(kernel.grid)
        rows_of_plan = plan.rows, plan.branch_rows, plan.cross_rows
        expected = [float(np.mean(final_errors(one, *rows_of_plan) ** 2)) for one in (still, answered)]
        squares[:2, number] = expected[0], expected[1] - expected[0]
    return replace(kernel, response=best_response(*squares))


def _schedules(kernel: Kernel) -> Iterator[Schedule]:
    """Three ways to spend few evaluations: evenly, late, and as the search would."""
    steps = len(kernel.grid)
    yield Uniform.for_nfe(max(2, steps // 5), steps)
    yield Uniform.for_nfe(max(3, steps // 7), steps, warmup=2)
    yield Optimal(kernel, nfe=max(2, steps // 6))


def _final_sample(pipe: Any, prompt: str, seed: int, call: dict[str, Any]) -> Float64[np.ndarray, " D"]:
    with record_run(pipe) as trajectory:
        run(pipe, call_arguments(pipe, prompt, call), seed)
    assert trajectory.sample is not None
    return trajectory.sample.detach().double().reshape(-1).cpu().numpy()


def best_response(open_loop: np.ndarray, answers: np.ndarray, measured: np.ndarray) -> float:
    """The response whose expected errors are nearest to those measured, in the mean square of their logarithms."""
    tiny = np.finfo(np.float64).tiny

    def misfit(response: float) -> float:
        expected = open_loop + response**2 * answers
        return float(np.mean((np.log(expected + tiny) - np.log(measured + tiny)) ** 2))

    return min(CANDIDATES, key=misfit)
