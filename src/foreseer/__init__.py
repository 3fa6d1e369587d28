"""Foreseer: sample diffusion models faster by computing a few steps and forecasting the others.

The public names are loaded when first used, so that ``import foreseer`` costs next to nothing and pulls no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = ("forecast", "schedule", "zoo")
_NAMES = {
    "Grid": "foreseer.grid",
    "Plan": "foreseer.plan",
    "Policy": "foreseer.plan",
    "methods": "foreseer.plan.methods",
    "accelerate": "foreseer.attach",
    "wrap": "foreseer.attach",
    "Handle": "foreseer.attach",
    "ForeseerError": "foreseer.errors",
    "ForeseerWarning": "foreseer.errors",
}

if TYPE_CHECKING:
    from foreseer import forecast, schedule, zoo
    from foreseer.attach import Handle, accelerate, wrap
    from foreseer.errors import ForeseerError, ForeseerWarning
    from foreseer.grid import Grid
    from foreseer.plan import Plan, Policy, methods

__all__ = [
    "ForeseerError",
    "ForeseerWarning",
    "Grid",
    "Handle",
    "Plan",
    "Policy",
    "__version__",
    "accelerate",
    "forecast",
    "methods",
    "schedule",
    "wrap",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"foreseer.{name}")
    if name in _NAMES:
        module = importlib.import_module(_NAMES[name])
        value = module if _NAMES[name].endswith(f".{name}") else getattr(module, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'foreseer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
