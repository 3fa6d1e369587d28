"""Which modules of a pipeline are called at each step."""

from __future__ import annotations

from typing import Any

from torch import nn

from foreseer.attach.interception import unwrapped
from foreseer.attach.run.step_reader import takes_timestep

# The names under which diffusers' pipelines hold what they call once or more at each step.
DENOISER_NAMES = ("transformer", "transformer_2", "unet")


def find_denoisers(pipe: Any) -> dict[str, nn.Module]:
    """The denoisers by name: what has one of diffusers' names for them, else the one module that takes a timestep.

    Empty where that leaves none, or several: beside a denoiser a ControlNet takes a timestep too.
    """
    named = {name: getattr(pipe, name, None) for name in DENOISER_NAMES}
    found = {name: module for name, module in named.items() if isinstance(module, nn.Module)}
    if found:
        return found
    taking = timestep_takers(pipe)
    return taking if len(taking) == 1 else {}


def timestep_takers(pipe: Any) -> dict[str, nn.Module]:
    """The modules among the pipeline's attributes whose ``forward`` takes a timestep."""
    modules = {name: value for name, value in getattr(pipe, "__dict__", {}).items() if isinstance(value, nn.Module)}
    return {name: module for name, module in modules.items() if takes_timestep(type(unwrapped(module)))}
