"""Forecast-error gate, which estimates each image's difficulty from forecast errors at computed steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from jaxtyping import Float64
from numpy import ndarray
from torch import Tensor

from foreseer.checks import check_kind, check_number
from foreseer.forecast.base import Forecaster
from foreseer.gate.base import Gate, GateError, GateRun, Setting
from foreseer.gate.replanner import Ratios, Replanner, expected_log, log_ratios, missing
from foreseer.gate.squared_errors import squared_errors
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.notices import said_if_slow
from foreseer.schedule.continued import Kept


@dataclass(frozen=True, eq=False)
class ForecastErrorGate(Gate):
    r"""Gate that computes the fewest steps whose expected final error stays within ``max_error``.

    The expected error is multiplied by the image's difficulty. At a computed step s, the forecast $\hat F_s$ that would
    have replaced it costs one weighted sum and is compared with the computed feature:
    $\delta_s = \log |F_s - \hat F_s| - E_p \log |F^p_s - \hat F^p_s|$, the mean being over the kernel's prompts. The
    difficulty after m comparisons is $\exp(\tau \sum \delta / (m + 1))$, which shrinks it toward that of a typical
    image. The remaining steps minimise the expected final error among the sets that begin with the computed steps
    (:class:`foreseer.schedule.continued.Continued`). In a batch the hardest image decides.

    Args:
        kernel: second moments from calibration; its expected errors are the measure.
        max_error: the expected relative error of the final sample to keep.
        trust: tau, the exponent of the difficulty: 0 gives a fixed schedule; 1 assumes that twice the forecast error
            causes twice the final error.

    Raises:
        GateError: an option is out of range, or the kernel has no final error (a stochastic scheduler).
    """

    kernel: Kernel = field(repr=False)
    max_error: float
    trust: float = 0.5
    _replanners: dict[tuple[bytes, Forecaster], Replanner] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_kind("kernel", self.kernel, Kernel, GateError)
        check_number("max_error", self.max_error, GateError)
        check_number("trust", self.trust, GateError)
        if not self.max_error:
            raise GateError("max_error is 0: to compute every step, sample without a gate.")
        if not self.kernel.has_final_error:
            raise GateError("This kernel cannot predict the final error (its scheduler is stochastic): use fs.learned.")

    def begin(self, setting: Setting) -> GateRun:
        """The gate in one branch, on its part of the grid.

        Raises:
            KernelError: the kernel cannot cover the grid.
        """
        return _ForecastErrorRun(self.replanner(setting.grid, setting.forecaster), setting, self.max_error)

    def replanner(self, grid: Grid, forecaster: Forecaster) -> Replanner:
        """Return the search that all runs on ``grid`` share; repeated calls return the same object.

        Raises:
            KernelError: the kernel cannot cover the grid.
        """
        kernel = self.kernel.on(grid)
        key = (kernel.grid.key, forecaster)
        found = self._replanners.get(key)
        if found is None:
            found = self._replanners[key] = Replanner(kernel, forecaster, self.trust)
        return found


class _ForecastErrorRun(GateRun):
    def __init__(self, replanner: Replanner, setting: Setting, max_error: float) -> None:
        self._replanner = replanner
        self._max_error = max_error
        self._rows_after = setting.rows_after
        self._grams = moments_of(replanner.kernel, setting.branch)
        self._computed: tuple[int, ...] = ()
        self._told: list[Ratios] = []
        self._steps: tuple[int, ...] | None = None
        self._kept: Kept = {}
        self._settled = False

    def computes(self, step: int, left: int | None, signal: Sequence[Tensor]) -> bool:
        if not self._computed:
            return True
        return step in self._planned(left)

    def planned_step(self, left: int | None) -> int | None:
        return next((step for step in self._planned(left) if step > self._computed[-1]), None)

    def _planned(self, left: int | None) -> tuple[int, ...]:
        if not self._settled:
            guess = None if self._steps is None else len(self._steps)
            difficulty = self._replanner.difficulty(self._told)
            # Only the first search of a run is long; a timer at every step would be waste.
            first = said_if_slow("Searching which of the next steps to compute ...") if guess is None else nullcontext()
            with first:
                self._steps = self._replanner.steps_after(
                    self._computed, difficulty, self._max_error, left, guess=guess, kept=self._kept
                )
            self._settled = True
        assert self._steps is not None
        return self._steps

    def computed(self, step: int, feature: Sequence[Tensor], forecast: Callable[[], list[Tensor] | None]) -> None:
        found = forecast()
        if found is not None:
            computed = list(self._computed)
            row = self._rows_after(self._computed).rows[step, computed]
            miss = missing(row, computed, step, self._replanner.search.total)
            told = log_ratios(squared_errors(feature, found), expected_log(self._grams, miss))
            if not self._told or told.shape == self._told[0].shape:
                self._told.append(told)
        self._computed = (*self._computed, step)
        self._settled = False


def moments_of(kernel: Kernel, branch: str) -> Float64[ndarray, "P T T"]:
    """Return the second moments of ``branch`` if the kernel recorded it, else the shared moments."""
    if kernel.branches is None or branch not in kernel.branches.names:
        return kernel.grams
    steps = kernel.branches.steps
    own = slice(kernel.branches.names.index(branch) * steps, (kernel.branches.names.index(branch) + 1) * steps)
    return kernel.branches.grams[:, own, own]
