"""Shared by all peers: their error, and restoring a pipeline exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from foreseer.errors import ForeseerError

if TYPE_CHECKING:
    from torch import nn

# Peers never change these; offloading replaces their contents while a pipeline runs.
_NOT_RESTORED = ("_parameters", "_buffers")
# Attributes that cache-dit sets on a pipeline's class.
_CLASS_NAMES = ("__call__", "_original_call", "_is_cached")


class PeerError(ForeseerError, RuntimeError):
    """A peer cannot be used: unknown name, missing package, unsupported model, budget out of reach."""


def free_denoisers(pipe: Any) -> dict[str, nn.Module]:
    """Return the denoising modules of a pipeline by name, checked to have nothing attached.

    Raises:
        PeerError: the pipeline has no denoiser, or something is attached to one already.
    """
    from foreseer.attach.interception import is_hooked
    from foreseer.attach.network.denoisers import find_denoisers

    modules = find_denoisers(pipe)
    if not modules:
        raise PeerError(f"{type(pipe).__name__} has no denoiser that Foreseer finds: peers have nothing to act on.")
    for name, module in modules.items():
        if is_hooked(module):
            raise PeerError(f"Foreseer is attached to this {name}: detach it (handle.detach()) before a peer.")
        if getattr(module, "is_cache_enabled", False) or getattr(module, "_is_cached", False):
            raise PeerError(f"A cache is enabled on this {name} already: disable it before another peer.")
    return modules


@contextmanager
def untouched(pipe: Any) -> Iterator[None]:
    """Restore every attribute of the pipeline, its class and its denoisers when the block ends.

    Peers undo most of their changes. This undoes what they leave behind (an empty hook registry, a replaced
    ``forward``, marks on the pipeline's class) or cannot undo after an exception. Parameters and buffers are kept.
    """
    modules = [part for module in free_denoisers(pipe).values() for part in module.modules()]
    states = [(part, _state(part), dict(part._modules)) for part in modules]
    registries = [(hooks, _registry(hooks)) for part in modules if (hooks := vars(part).get("_diffusers_hook"))]
    kind = type(pipe)
    class_state = {name: vars(kind)[name] for name in _CLASS_NAMES if name in vars(kind)}
    pipe_state = dict(vars(pipe))
    try:
        yield
    finally:
        for name in _CLASS_NAMES:
            if name in class_state:
                setattr(kind, name, class_state[name])
            elif name in vars(kind):
                delattr(kind, name)
        _restore(pipe, pipe_state, ())
        for part, state, children in states:
            _restore(part, state, _NOT_RESTORED)
            if list(part._modules.items()) != list(children.items()):  # the order too: caches rely on it
                part._modules.clear()
                part._modules.update(children)
        for registry, (state, references) in registries:
            registry.__dict__.clear()
            registry.__dict__.update(state)
            for reference, members in references:
                reference.__dict__.update(members)


def _state(part: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name not in _NOT_RESTORED}


def _restore(target: Any, state: dict[str, Any], ignored: tuple[str, ...]) -> None:
    """Write to ``__dict__`` directly: modules and pipelines redefine attribute assignment."""
    members = target.__dict__
    for name in [name for name in members if name not in state and name not in ignored]:
        del members[name]
    members.update(state)


def _registry(registry: Any) -> tuple[dict[str, Any], list[tuple[Any, dict[str, Any]]]]:
    """Copy the members of a diffusers hook registry, and those of the references that it chains."""
    state = {name: value.copy() if isinstance(value, dict | list) else value for name, value in vars(registry).items()}
    return state, [(reference, dict(vars(reference))) for reference in state.get("_fn_refs", [])]
