"""`gated`: a kernel and a quality target become a policy that spends on each image what it needs."""

from __future__ import annotations

import numpy as np

from foreseer.errors import ScheduleError
from foreseer.forecast.base import Forecaster
from foreseer.forecast.kernel import KernelRows
from foreseer.gate.forecast_error import ForecastErrorGate
from foreseer.gate.gated_policy import GatedPolicy
from foreseer.gate.replanner import Replanner
from foreseer.kernel import Kernel
from foreseer.methods.learned import SEARCH_RIDGE
from foreseer.methods.validate import best_ridge

FORESEEN = 16  # of the kernel's prompts, on which a mean number of evaluations is sought
HALVINGS = 5


def gated(
    kernel: Kernel,
    *,
    max_error: float | None = None,
    nfe: float | None = None,
    max_nfe: int | None = None,
    forecaster: Forecaster | None = None,
    trust: float = 1.0,
) -> GatedPolicy:
    """The forecast-error gate with kernel rows, or another forecaster's, for any run that the kernel covers.

    Args:
        kernel: from :func:`foreseer.calibrate`.
        max_error: the expected relative error of the final sample to keep, image by image; or
        nfe: network evaluations in the mean over images: the error is sought that the kernel's own prompts reach with
            so many.
        max_nfe: evaluations that no run may exceed; ``None`` for any number.
        forecaster: whose rows are used, any; by default kernel rows with the ridge that cross-validates best.
        trust: how much of an image's difficulty counts; see :class:`foreseer.gate.ForecastErrorGate`.

    Raises:
        ScheduleError: not exactly one target was given, or it cannot be met.
        GateError: an option is out of range, or the kernel knows no final error.
    """
    if (max_error is None) == (nfe is None):
        raise ScheduleError(f"Give one of max_error and nfe; received {max_error!r} and {nfe!r}.")
    gate = ForecastErrorGate(kernel, max_error if max_error is not None else 1.0, trust)
    if forecaster is None:
        trial = Replanner(kernel, KernelRows(kernel, ridge=SEARCH_RIDGE), trust)
        guess = trial.steps_after((0,), 1.0, gate.max_error) if nfe is None else _near(trial, nfe)
        forecaster = KernelRows(kernel, ridge=best_ridge(kernel, guess).ridge)
    if nfe is not None:
        gate = ForecastErrorGate(kernel, error_for(gate.replanner(kernel.grid, forecaster), nfe), trust)
    return GatedPolicy(gate, forecaster, kernel.site, max_nfe)


def error_for(replanner: Replanner, nfe: float) -> float:
    """The error to keep with which the kernel's prompts take ``nfe`` evaluations in the mean, by bisection.

    Raises:
        ScheduleError: so many evaluations do not fit a run.
    """
    total = replanner.search.total
    if not 2 <= nfe <= total - 1:
        raise ScheduleError(f"A gate takes 2 to {total - 1} evaluations of {total} in the mean; received {nfe}.")
    count = replanner.kernel.prompts
    prompts = np.unique(np.linspace(0, count - 1, min(FORESEEN, count)).round().astype(int)).tolist()
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
