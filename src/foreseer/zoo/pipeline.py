"""FluxPipeline with the bundled model's size, text length, steps and guidance as defaults."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import diffusers

from foreseer.zoo.folder import path, sampling


def with_defaults(call: Callable[..., Any], defaults: dict[str, Any]) -> Callable[..., Any]:
    """Return the method with other default values for its keyword parameters; its signature shows them."""
    signature = inspect.signature(call)

    @functools.wraps(call)
    def changed(*arguments: Any, **options: Any) -> Any:
        passed = signature.bind_partial(*arguments, **options).arguments
        return call(*arguments, **options, **{name: defaults[name] for name in defaults if name not in passed})

    parameters = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]
    changed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return changed


class FluxPipeline(diffusers.FluxPipeline):
    """The bundled pipeline's class; ``sampling.json`` holds its defaults.

    It keeps the name of its base class: diffusers and the caches that act on pipelines look it up by that name, and a
    saved copy loads as ``diffusers.FluxPipeline``.
    """

    __call__ = with_defaults(
        diffusers.FluxPipeline.__call__,
        {name: value for name, value in sampling(path()).items() if name != "prompts"},
    )
