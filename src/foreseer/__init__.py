"""Foreseer: sample diffusion models faster by computing a few steps and forecasting the others.

The public names are loaded when first used, so that ``import foreseer`` costs next to nothing and pulls no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from foreseer.errors import naming_the_extra

__version__ = "0.1.0"

_MODULES = {
    "forecast": "foreseer.forecast",
    "gate": "foreseer.gate",
    "methods": "foreseer.methods",
    "scale": "foreseer.scale",
    "schedule": "foreseer.schedule",
    "site": "foreseer.site",
    "zoo": "foreseer.zoo",
}
_NAMES = {
    "ForeseerDeprecationWarning": "foreseer.errors",
    "ForeseerError": "foreseer.errors",
    "ForeseerWarning": "foreseer.errors",
    "GatedPolicy": "foreseer.gate",
    "Grid": "foreseer.grid",
    "Handle": "foreseer.attach.handle",
    "Kernel": "foreseer.kernel",
    "Plan": "foreseer.plan",
    "Profile": "foreseer.methods.profile",
    "Policy": "foreseer.plan",
    "Recorder": "foreseer.calibration.recorder",
    "Run": "foreseer.attach.single_run",
    "RunCall": "foreseer.attach.runs",
    "Runs": "foreseer.attach.runs",
    "Sampler": "foreseer.calibration.loop_sampler",
    "accelerate": "foreseer.attach.accelerate",
    "calibrate": "foreseer.calibration.calibrate",
    "detach": "foreseer.attach.accelerate",
    "gated": "foreseer.methods.gated",
    "learned": "foreseer.methods.learned",
    "mix_channels": "foreseer.calibration.mix_channels",
    "move_steps": "foreseer.calibration.move_steps",
    "refine": "foreseer.calibration.refine",
    "rollout": "foreseer.calibration.rollout",
    "sampler_matrix": "foreseer.calibration.sampler",
    "tune": "foreseer.calibration.tune",
    "wrap": "foreseer.attach.wrap",
}

if TYPE_CHECKING:
    from foreseer import forecast, gate, methods, scale, schedule, site, zoo
    from foreseer.attach.accelerate import accelerate, detach
    from foreseer.attach.handle import Handle
    from foreseer.attach.runs import RunCall, Runs
    from foreseer.attach.single_run import Run
    from foreseer.attach.wrap import wrap
    from foreseer.calibration.calibrate import calibrate
    from foreseer.calibration.loop_sampler import Sampler
    from foreseer.calibration.mix_channels import mix_channels
    from foreseer.calibration.move_steps import move_steps
    from foreseer.calibration.recorder import Recorder
    from foreseer.calibration.refine import refine
    from foreseer.calibration.rollout import rollout
    from foreseer.calibration.sampler import sampler_matrix
    from foreseer.calibration.tune import tune
    from foreseer.errors import ForeseerDeprecationWarning, ForeseerError, ForeseerWarning
    from foreseer.gate import GatedPolicy
    from foreseer.grid import Grid
    from foreseer.kernel import Kernel
    from foreseer.methods.gated import gated
    from foreseer.methods.learned import learned
    from foreseer.methods.profile import Profile
    from foreseer.plan import Plan, Policy

__all__ = [
    "ForeseerDeprecationWarning",
    "ForeseerError",
    "ForeseerWarning",
    "GatedPolicy",
    "Grid",
    "Handle",
    "Kernel",
    "Plan",
    "Policy",
    "Profile",
    "Recorder",
    "Run",
    "RunCall",
    "Runs",
    "Sampler",
    "__version__",
    "accelerate",
    "calibrate",
    "detach",
    "forecast",
    "gate",
    "gated",
    "learned",
    "methods",
    "mix_channels",
    "move_steps",
    "refine",
    "rollout",
    "sampler_matrix",
    "scale",
    "schedule",
    "site",
    "tune",
    "wrap",
    "zoo",
]


def __getattr__(name: str) -> Any:
    place = _MODULES.get(name) or _NAMES.get(name)
    if place is None:
        raise AttributeError(f"module 'foreseer' has no attribute {name!r}")
    with naming_the_extra():
        module = importlib.import_module(place)
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
