"""TeaCache's gate: changes of the timestep-modulated input, rescaled and added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from torch import Tensor

from foreseer.checks import check_number
from foreseer.gate.base import Gate, GateError, GateRun, Setting
from foreseer.gate.relative_l1 import relative_change

# As in the programs released with the paper (github.com/ali-vilab/TeaCache), highest power first. Wan's are left out:
# its program compares time embeddings, not modulated inputs.
PUBLISHED: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "flux": (4.98651651e02, -2.83781631e02, 5.58554382e01, -3.82021401e00, 2.64230861e-01),
        "hunyuan-video": (7.33226126e02, -4.01131952e02, 6.75869174e01, -3.14987800e00, 9.61237896e-02),
        "ltx-video": (2.14700694e01, -1.28016453e01, 2.31279151e00, 7.92487521e-01, 9.69274326e-03),
    }
)


@dataclass(frozen=True)
class TeaCache(Gate):
    r"""Gate that computes a step once accumulated input changes reach ``threshold`` (arXiv 2411.19108).

    A step computes once $\sum p(\ell_i)$ since the last computed step reaches the threshold.
    $\ell_i = |m_i - m_{i-1}|_1 / |m_{i-1}|_1$ is the relative change of the first block's timestep-modulated input
    against the *previous step*, and p a polynomial that maps it to the relative change of the network's output. The
    first and the last step compute.

    Args:
        threshold: published for FLUX: 0.25, 0.4, 0.6 and 0.8; at 0 every step computes.
        coefficients: of p, highest power first; or a name in ``PUBLISHED``; by default p(x) = x. Those of another
            pipeline are fitted by ``foreseer.calibration.fit_teacache.fit_teacache``.

    Raises:
        GateError: an option is out of range.

    >>> TeaCache(threshold=0.6, coefficients="flux").coefficients[-1]
    0.264230861
    """

    signal: ClassVar[str | None] = "modulated_input"
    threshold: float = 0.25
    coefficients: tuple[float, ...] | str = (1.0, 0.0)

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, GateError)
        given = self.coefficients
        if isinstance(given, str):
            if given not in PUBLISHED:
                raise GateError(f"No coefficients are known as {given!r}: expected numbers, or {', '.join(PUBLISHED)}.")
            object.__setattr__(self, "coefficients", PUBLISHED[given])
            return
        if not isinstance(given, tuple | list) or not given:
            raise GateError(f"coefficients is {given!r}; expected numbers, the highest power's first.")
        for number in given:
            check_number("a coefficient", number, GateError, least=-np.inf)
        object.__setattr__(self, "coefficients", tuple(float(number) for number in given))

    def begin(self, setting: Setting) -> GateRun:
        """Start with an empty sum."""
        return _TeaCacheRun(self, len(setting.grid))


class _TeaCacheRun(GateRun):
    def __init__(self, gate: TeaCache, steps: int) -> None:
        self._gate = gate
        self._steps = steps
        self._before: Tensor | None = None
        self._sum = 0.0

    def computes(self, step: int, left: int | None, signal: Sequence[Tensor]) -> bool:
        """Whether the sum, with this step's change, reaches the threshold."""
        now, before = signal[0], self._before
        self._before = now
        if before is None or step in (0, self._steps - 1):
            return True
        self._sum += float(np.polyval(np.asarray(self._gate.coefficients), relative_change(now, before)))
        return not self._sum < self._gate.threshold

    def computed(self, step: int, feature: Sequence[Tensor], forecast: Callable[[], list[Tensor] | None]) -> None:
        """Reset the sum."""
        self._sum = 0.0
