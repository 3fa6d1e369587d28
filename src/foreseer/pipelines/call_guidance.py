"""Guidance of a pipeline's call: during it from its arguments, and before it from its options."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from foreseer.guidance import ARGUMENTS, COMBINED, Guidance, guidance_of
from foreseer.pipelines.call_source import parameters_in_source
from foreseer.pipelines.loading import read_config, split_sampling
from foreseer.zoo import sampling

NETWORKS = ("transformer", "unet")


def guidance_in_folder(folder: Path, options: Mapping[str, Any]) -> Guidance | None:
    """Return the guidance that a call of the pipeline in ``folder`` will have; nothing is loaded."""
    accepted = parameters_in_source(str(read_config(folder / "model_index.json").get("_class_name")))
    if accepted is None:
        return None
    defaults = {name: each.default for name, each in accepted.items() if each.default is not inspect.Parameter.empty}
    arguments = {**defaults, **split_sampling(sampling(folder))[1]}
    arguments |= {name: value for name, value in options.items() if value is not None}
    configs = [read_config(folder / name / "config.json") for name in NETWORKS]
    found = guidance_of(arguments, embeds=any(map(_embeds, configs)))
    low = not found and arguments.get("guidance_scale") == 1  # guidance in Z-Image, none elsewhere
    return None if low and "true_cfg_scale" not in arguments else found


def guidance_of_run(pipe: Any) -> Guidance | None:
    """Return the guidance of the pipeline's call that this function is called from; ``None`` if unknown.

    It is read from the arguments of that call, because pipelines do not keep all of them. Without a call that has such
    arguments, the guider of ``pipe`` decides.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if code.co_name == "__call__" and names[:1] == ("self",) and set(COMBINED) & {*names}:
            values = frame.f_locals
            caller, arguments = values["self"], {name: values[name] for name in names if name in ARGUMENTS}
            if type(values) is dict:
                values.clear()  # before Python 3.13 a copy, which would keep the call's tensors
            return _guidance(caller, arguments)
        frame = frame.f_back
    return None if getattr(pipe, "guider", None) is None else _guidance(pipe, {})


def _guidance(pipe: Any, arguments: Mapping[str, Any]) -> Guidance | None:
    guider = getattr(pipe, "guider", None)
    runs = _runs(pipe, arguments)
    if guider is not None:
        scale = getattr(guider, "guidance_scale", None)
        if not isinstance(scale, int | float):
            return None
        neutral = 0.0 if getattr(guider, "use_original_formulation", False) else 1.0
        runs = bool(getattr(guider, "_enabled", True)) and not math.isclose(scale, neutral)
        arguments = {**arguments, "guidance_scale": scale}
    networks = (getattr(pipe, name, None) for name in NETWORKS)
    return guidance_of(arguments, embeds=any(_embeds(getattr(each, "config", None)) for each in networks), runs=runs)


def _embeds(config: Any) -> bool:
    """Whether a network with this configuration takes a guidance scale as an input."""
    entries = config if isinstance(config, Mapping) else {}
    return bool(entries.get("guidance_embeds")) or entries.get("time_cond_proj_dim") is not None


def _runs(pipe: Any, arguments: Mapping[str, Any]) -> bool | None:
    """Whether the scale combines branches by the pipeline's own rule; ``None`` without a rule."""
    rule = getattr(type(pipe), "do_classifier_free_guidance", None)
    if not isinstance(rule, property) or rule.fget is None:
        return None
    try:
        return bool(rule.fget(_Asked(pipe, arguments)))
    except Exception:  # noqa: BLE001 - other people's code
        return None


class _Asked:
    """A pipeline as it is during a call with ``arguments``."""

    def __init__(self, pipe: Any, arguments: Mapping[str, Any]) -> None:
        vars(self).update(_pipeline=pipe, _arguments=arguments)

    def __getattr__(self, name: str) -> Any:
        arguments = vars(self)["_arguments"]
        argument = name.removeprefix("_")
        return arguments[argument] if argument in arguments else getattr(vars(self)["_pipeline"], name)
