"""Quality levels by name, as servers call them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from foreseer.checks import unknown_name
from foreseer.errors import PlanError

# Expected relative error of the final latent; None: every step is computed.
QUALITIES: Mapping[str, float | None] = MappingProxyType(
    {"exact": None, "lossless": 0.005, "high": 0.02, "balanced": 0.05, "fast": 0.1}
)


def error_of(quality: str) -> float | None:
    """The relative error of the final latent that a quality level allows; ``None`` for ``"exact"``.

    It is a promise about latents of the model that the kernel or profile was calibrated on.

    Raises:
        PlanError: the level is unknown.

    >>> error_of("high")
    0.02
    """
    if not isinstance(quality, str) or quality not in QUALITIES:
        raise PlanError(unknown_name("quality", str(quality), QUALITIES))
    return QUALITIES[quality]
