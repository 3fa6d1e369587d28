"""`gated`: a policy from a kernel and a quality target, with a budget that adapts to each image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from foreseer.checks import check_kind, one_target
from foreseer.errors import ScheduleError
from foreseer.forecast.base import Forecaster
from foreseer.forecast.kernel_rows import KernelRows
from foreseer.gate.base import GateError
from foreseer.gate.forecast_error import ForecastErrorGate
from foreseer.gate.gated_policy import GatedPolicy
from foreseer.gate.replanner import Replanner
from foreseer.kernel import Kernel
from foreseer.methods.learned import rows_with_feedback, search_kernel
from foreseer.methods.validate import best_ridge

SIMULATED_PROMPTS = 16  # number of the kernel's prompts on which the mean NFE is simulated
HALVINGS = 5


def gated(
    kernel: Kernel,
    *,
    max_error: float | None = None,
    nfe: float | None = None,
    max_nfe: int | None = None,
    forecaster: Forecaster | None = None,
    trust: float = 0.5,
) -> GatedPolicy:
    """Return a policy of the forecast-error gate with kernel rows, for grids within the kernel's levels.

    Args:
        kernel: from :func:`foreseer.calibrate`.
        max_error: expected relative error of the final sample to keep for each image; or
        nfe: mean number of computed steps over images; the matching error is found on the kernel's prompts.
        max_nfe: maximum number of computed steps of a run; ``None`` for no limit.
        forecaster: source of the rows; by default kernel rows with error feedback, at the ridge that validates best.
        trust: weight of an image's estimated difficulty; see :class:`foreseer.gate.ForecastErrorGate`. At 1 the bundled
            model lost most at equal cost (benchmarks/README.md).

    Raises:
        ScheduleError: not exactly one target was given, or it cannot be met.
        GateError: an argument has the wrong type or is out of range, or the kernel has no final error.
    """
    check_kind("kernel", kernel, Kernel, GateError)
    if forecaster is not None:
        check_kind("forecaster", forecaster, Forecaster, GateError)
    one_target(ScheduleError, {"max_error": max_error, "nfe": nfe}, required=True)
    rows = rows_with_feedback(kernel) if forecaster is None else forecaster
    searched = search_kernel(kernel, rows)
    gate = ForecastErrorGate(searched, max_error if max_error is not None else 1.0, trust)
    if forecaster is None:
        assert isinstance(rows, KernelRows)
        trial = Replanner(searched, rows, trust)
        guess = trial.steps_after((0,), 1.0, gate.max_error) if nfe is None else _near(trial, nfe)
        forecaster = replace(rows, ridge=best_ridge(kernel, guess, feedback_gain=rows.feedback_gain).ridge)
    if nfe is not None:
        gate = ForecastErrorGate(searched, error_for(gate.replanner(kernel.grid, forecaster), nfe), trust)
    return GatedPolicy(gate, forecaster, kernel.site, max_nfe)


def error_for(replanner: Replanner, nfe: float) -> float:
    """Find by bisection the error bound at which the kernel's prompts take ``nfe`` steps on average.

    Raises:
        ScheduleError: ``nfe`` does not fit a run.
    """
    total = replanner.search.total
    if not 2 <= nfe <= total - 1:
        raise ScheduleError(f"nfe is {nfe}; expected a mean of 2 to {total - 1} for runs of {total} steps.")
    count = replanner.kernel.prompts
    prompts = np.unique(np.linspace(0, count - 1, min(SIMULATED_PROMPTS, count)).round().astype(int)).tolist()
    least, most = (
        np.log(replanner.search.cost(replanner.search.best_after((0,), n)) / replanner.scale)
        for n in (min(total, int(nfe) + 3), max(1, int(nfe) - 2))
    )
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        if replanner.simulate(float(np.exp(middle)), prompts).nfe.mean() > nfe:
            least = middle
        else:
            most = middle
    return float(np.exp(most))


def _near(replanner: Replanner, nfe: float) -> tuple[int, ...]:
    return replanner.search.best_after((0,), max(1, min(replanner.search.total, round(nfe))))
