"""Description of the networks that a policy was learned on, and comparison of other networks with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from foreseer.attach.interception import unwrapped

# Prefix of the image size in a configuration: fine-tunes change it, and outputs stay comparable.
_LEFT_OUT = "sample_"


def architecture_of(denoisers: Iterable[nn.Module]) -> str:
    """Return the class and the sizes (integers of the configuration) of each distinct denoiser, as JSON."""
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
    return {"class": _class_of(unwrapped(module)), **kept}


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
    apart = [name for name in here if name != "class" and name in there and here[name] != there[name]]
    if not apart:
        return ""
    listed = ", ".join(f"{name} {there[name]} ({here[name]} here)" for name in apart)
    return f"one with {listed}"
