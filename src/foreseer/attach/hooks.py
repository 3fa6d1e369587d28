"""Registering on a module through diffusers' hook registry, and leaving no trace."""

from __future__ import annotations

import threading
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, StateManager
from torch import nn

HOOK_NAME = "foreseer"


class ContextName(StateManager):
    """Keeps the name of the surrounding ``cache_context``, each thread its own."""

    def __init__(self) -> None:
        super().__init__(BaseState)  # pyright: ignore[reportArgumentType]
        self._names = threading.local()

    def set_context(self, context: Any) -> None:
        """Take the context of a call: an object with a name (diffusers 0.41 on), a string before, or ``None``."""
        self._names.value = getattr(context, "name", context)

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Forget this thread's name."""
        self._names.value = None

    @property
    def name(self) -> str | None:
        """The name, ``None`` outside a context."""
        return getattr(self._names, "value", None)


def is_hooked(module: nn.Module) -> bool:
    """Whether Foreseer is attached to ``module``."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook(HOOK_NAME) is not None


def add_hook(module: nn.Module, hook: ModelHook) -> None:
    """Register ``hook`` outermost on ``module``."""
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(hook, HOOK_NAME)


def remove_hook(module: nn.Module) -> None:
    """Remove the hook; with the last one gone, the registry and the instance's ``forward`` go too."""
    registry = getattr(module, "_diffusers_hook", None)
    if registry is None:
        return
    registry.remove_hook(HOOK_NAME, recurse=False)
    if not registry.hooks:
        del module._diffusers_hook
        forward = module.__dict__.get("forward")
        if getattr(forward, "__func__", None) is type(module).forward:
            del module.forward


def refresh_contexts(module: nn.Module) -> None:
    """Have diffusers list the hooks below ``module`` anew, where it caches that list."""
    registry = getattr(module, "_diffusers_hook", None)
    refresh = getattr(registry, "invalidate_child_registries_cache", None)
    if refresh is not None:
        refresh()
