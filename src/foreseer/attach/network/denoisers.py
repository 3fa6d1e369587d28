"""Search for the modules of a pipeline that are called at each step."""

from __future__ import annotations

from typing import Any

from torch import nn

from foreseer.attach.interception import unwrapped
from foreseer.attach.run.step_reader import takes_timestep

# The attributes of diffusers' pipelines that hold modules called once or more at each step.
DENOISER_NAMES = ("transformer", "transformer_2", "unet")


def find_denoisers(pipe: Any) -> dict[str, nn.Module]:
    """Return the pipeline's denoisers by name.

    These are the modules with one of diffusers' names for denoisers and all others of the same classes
    (``unconditional_transformer``, ``transformer_ref``), else the only module that takes a timestep. The result is
    empty if no module or several take one, because a ControlNet beside a denoiser takes a timestep too.
    """
    named = {name: getattr(pipe, name, None) for name in DENOISER_NAMES}
    denoisers = {name: module for name, module in named.items() if isinstance(module, nn.Module)}
    if denoisers:
        classes = {type(unwrapped(module)) for module in denoisers.values()}
        for name, module in _modules(pipe).items():
            if type(unwrapped(module)) in classes and all(module is not each for each in denoisers.values()):
                denoisers[name] = module
        return denoisers
    taking = timestep_takers(pipe)
    return taking if len(taking) == 1 else {}


def timestep_takers(pipe: Any) -> dict[str, nn.Module]:
    """Return the modules among the pipeline's attributes whose ``forward`` takes a timestep."""
    return {name: module for name, module in _modules(pipe).items() if takes_timestep(type(unwrapped(module)))}


def _modules(pipe: Any) -> dict[str, nn.Module]:
    return {name: value for name, value in getattr(pipe, "__dict__", {}).items() if isinstance(value, nn.Module)}
