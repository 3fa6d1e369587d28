"""Steps and noise levels of a run, read from a scheduler of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

Unit = Literal["sigma", "timestep"]


def is_scheduler(value: Any) -> bool:
    """Return whether ``value`` is a scheduler by what it offers: timesteps, or a method that sets them."""
    return not isinstance(value, type) and (hasattr(value, "timesteps") or hasattr(value, "set_timesteps"))


def has_steps(scheduler: Any) -> bool:
    """Return whether ``set_timesteps`` was called; before, some schedulers list all training timesteps."""
    timesteps = getattr(scheduler, "timesteps", None)
    if timesteps is None or len(timesteps) == 0:
        return False
    if hasattr(scheduler, "num_inference_steps"):
        return scheduler.num_inference_steps is not None
    return len(timesteps) != getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)


def inverts_sigmas(scheduler: Any) -> bool:
    """Whether the scheduler's configuration says that its sigmas rise from noise to clean."""
    config = getattr(scheduler, "config", None)
    found = config.get("invert_sigmas") if isinstance(config, Mapping) else getattr(config, "invert_sigmas", False)
    return bool(found)


def repeated_levels(scheduler: Any) -> tuple[np.ndarray, Unit]:
    """Each step's level and the final level, and their unit."""
    timesteps = to_array(visited(scheduler))
    sigmas = to_array(scheduler.sigmas) if getattr(scheduler, "sigmas", None) is not None else np.empty(0)
    if sigmas.size == timesteps.size + 1:
        return (1.0 - sigmas if inverts_sigmas(scheduler) else sigmas), "sigma"
    return np.append(timesteps, min(0.0, timesteps[-1])), "timestep"


def visited(scheduler: Any) -> Any:
    """Return the scheduler's timesteps at which the network is called.

    Integer timesteps are indices of training steps, and 0 is one of them. Floating-point timesteps of a scheduler
    without sigmas are noise levels; a last one of 0 is the end of the run (SCM, DDPMWuerstchen), not a step.
    """
    timesteps = scheduler.timesteps
    are_levels = getattr(scheduler, "sigmas", None) is None and "float" in str(getattr(timesteps, "dtype", ""))
    return timesteps[:-1] if are_levels and len(timesteps) > 1 and float(timesteps[-1]) == 0.0 else timesteps


def to_array(values: Any) -> np.ndarray:
    """Convert a scheduler's tensor, on any device, to a float64 array."""
    if hasattr(values, "detach"):
        values = values.detach().to("cpu").double().numpy()
    return np.asarray(values, dtype=np.float64).reshape(-1)
