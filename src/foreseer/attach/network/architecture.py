"""Description of the networks that a policy was learned on, and comparison of other networks with it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from foreseer.attach.interception import unwrapped

# Prefix of the image size in a configuration: fine-tunes change it, and outputs stay comparable.
_LEFT_OUT = "sample_"
PARAMETERS = "parameters"
# Parts of parameters' names that wrappers add: torch.compile, DataParallel and FSDP, PEFT.
_ADDED = re.compile(r"(^|\.)(_orig_mod|module|_fsdp_wrapped_module|base_layer|base_model\.model)(?=\.)")
_ADAPTER = re.compile(r"(^|\.)(lora_\w+|modules_to_save)(\.|$)")


def architecture_of(denoisers: Iterable[nn.Module]) -> str:
    """Return the class and the sizes (integers of the configuration) of each distinct denoiser, as JSON.

    Networks that have neither are described by a hash of their parameters' names and shapes.
    """
    kinds = {json.dumps(_described(module), sort_keys=True) for module in denoisers}
    return json.dumps([json.loads(one) for one in sorted(kinds)])


def how_it_differs(module: nn.Module, known: str) -> str:
    """Return how ``module`` differs from the most similar network in ``known``; empty if it does not.

    ``known`` is a result of :func:`architecture_of`; text that cannot be parsed counts as no difference. Sizes that
    only one network has are ignored, because versions of diffusers add and drop some.
    """
    try:
        described = [dict(one) for one in json.loads(known)]
    except (ValueError, TypeError, RecursionError):
        return ""
    here = _described(module)
    return min((_difference(here, there) for there in described), key=len, default="")


def _described(module: nn.Module) -> dict[str, Any]:
    config = getattr(unwrapped(module), "config", None)
    named = config if isinstance(config, Mapping) else {}
    sizes = {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}
    kept = {name: value for name, value in sizes.items() if _is_size(name, value)}
    found = {"class": _class_of(unwrapped(module)), **kept}
    return found if any(found.values()) else {**found, **_by_parameters(unwrapped(module))}


def _by_parameters(module: nn.Module) -> dict[str, str]:
    """Return the class, and a hash of the parameters' names and shapes without adapters.

    The result is empty if shapes are not those of the network: quantised weights are packed, FSDP flattens them.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, weight in module.named_parameters():
        if not weight.is_floating_point() or "_flat_param" in name:
            return {}
        if not _ADAPTER.search(name):
            shapes[_ADDED.sub("", name).lstrip(".")] = tuple(weight.shape)
    listed = json.dumps(sorted(shapes.items())).encode()
    return {"module": type(module).__qualname__, PARAMETERS: hashlib.sha256(listed).hexdigest()[:16]} if shapes else {}


def _class_of(module: nn.Module) -> str:
    """Return the name of the module's diffusers class, or an empty string if it has none.

    The class is also found among the bases of a wrapping class (FSDP). PEFT's and user-defined classes have none.
    """
    names = (kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("diffusers.models."))
    return next(names, "")


def _is_size(name: str, value: Any) -> bool:
    numbers = value if isinstance(value, list) and value else [value]
    return not name.startswith(("_", _LEFT_OUT)) and all(type(one) is int for one in numbers)


def _difference(here: dict[str, Any], there: dict[str, Any]) -> str:
    known = there.get("class")
    if known and here["class"] and here["class"] != known:
        return f"a {known}, and this is a {here['class']}"
    apart = [name for name in here if name not in ("class", "module") and name in there and here[name] != there[name]]
    if not apart:
        return ""
    if apart == [PARAMETERS]:
        return f"a {there.get('module')} whose parameters have other names or shapes than this {here['module']}'s"
    listed = ", ".join(f"{name} {there[name]} ({here[name]} here)" for name in apart)
    return f"one with {listed}"
