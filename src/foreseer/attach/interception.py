"""Standing before a module's calls on one instance, hearing diffusers' cache contexts, and leaving no trace.

A call is taken where ``nn.Module.__call__`` looks first, at ``_compiled_call_impl``. What others do to ``forward``
(hooks of accelerate and diffusers that come and go, adapters, ``torch.compile``) happens inside and cannot drop it; a
copy of the module, whose state leaves that attribute out, is not attached.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, HookFunctionReference, StateManager
from torch import nn
from torch._C._dynamo import eval_frame

from foreseer.errors import AttachError, ForeseerWarning

HOOK_NAME = "foreseer"
_CALL = "_compiled_call_impl"

_COMPILE_FIRST = (
    "torch.compile was put around a module that Foreseer is attached to. Detach (handle.detach()), compile, attach "
    "again; or compile in place: module.compile()."
)

Forward = Callable[..., Any]


class CacheContext(StateManager):
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


class Listener(ModelHook):
    """An entry in a diffusers hook registry that hears of contexts and resets, and has no part in ``forward``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelHook, ()  # a copy of the module is not attached: its entry does nothing


class _Reference(HookFunctionReference):
    """What a registry keeps beside a hook; ours, to be known again."""


class Interception:
    """Stands before the calls of ``module`` from :meth:`install` to :meth:`remove`.

    Both may be broken off at any line (Ctrl-C) and called again: either does what is left to do.

    Args:
        module: the instance; its class and its ``forward`` are not touched.
        call: takes the module's own call and the arguments.
        no_compile: why the module must not be compiled as a whole, where it must not.
    """

    def __init__(self, module: nn.Module, call: Callable[..., Any], no_compile: str | None = None) -> None:
        self._module = module
        self._before = vars(module).get(_CALL)
        self._own: Forward = self._before or module._call_impl
        self._no_compile = no_compile
        self._below = vars(module).get("compile")

        def outermost(*args: Any, **kwargs: Any) -> Any:
            if _is_compiled_from_outside():
                raise AttachError(_COMPILE_FIRST)
            return call(self._own, *args, **kwargs)

        self._outermost = torch.compiler.disable(outermost, recursive=False, reason=_COMPILE_FIRST)

    def install(self) -> None:
        """Begin to stand there."""
        vars(self._module).update({_CALL: self._outermost, "compile": _Compile(self._module, self)})  # both at once

    def remove(self) -> None:
        """Leave the module as it was found; once all is done, say so where the calls were replaced."""
        members = vars(self._module)
        now = members.get(_CALL)
        replaced = now is not self._before and now is not self._outermost
        if now is self._outermost:
            _put(members, _CALL, self._before)
        placeholder = members.get("compile")
        if not isinstance(placeholder, _Compile) or placeholder.interception is not self:
            return
        _put(members, "compile", self._below)
        if replaced:
            warnings.warn(
                f"The calls of this {type(self._module).__name__} were replaced while Foreseer was attached: those "
                "since then were not accelerated.",
                ForeseerWarning,
                stacklevel=3,
            )

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As ``nn.Module.compile``, below this interception, where it stays.

        Raises:
            AttachError: the site lies inside the module.
        """
        if self._no_compile is not None:
            raise AttachError(self._no_compile)
        if isinstance(self._below, _Compile):
            self._below(*args, **kwargs)
            return
        self._before = self._own = torch.compile(self._module._call_impl, *args, **kwargs)


class _Compile:
    """Stands for ``module.compile`` while an interception is there, which that method would overwrite."""

    def __init__(self, module: nn.Module, interception: Interception) -> None:
        self._module = module
        self.interception = interception

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.interception.compile(*args, **kwargs)

    @property
    def innermost(self) -> Forward | None:
        """What stood at the module's calls before the first interception; ``None`` for nothing."""
        below = self.interception._below
        return below.innermost if isinstance(below, _Compile) else self.interception._before

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module, "compile")  # in a copy of the module: the copy's own method


def _put(members: dict[str, Any], name: str, value: Any) -> None:
    """Set an attribute back to what it was; ``None`` for nothing."""
    if value is None:
        del members[name]
    else:
        members[name] = value


def _is_compiled_from_outside() -> bool:
    """Whether ``torch.compile`` is at work in the frame above, and would compile what is called here piece by piece."""
    return eval_frame.get_eval_frame_callback() not in (None, False)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module itself where ``torch.compile`` wrapped it."""
    return getattr(module, "_orig_mod", module)


def is_compiled_in_place(module: nn.Module) -> bool:
    """Whether ``module.compile()`` was called, whatever stands before its calls."""
    placeholder = vars(module).get("compile")
    call = placeholder.innermost if isinstance(placeholder, _Compile) else vars(module).get(_CALL)
    return call is not None and not getattr(call, "_torchdynamo_disable", False)


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` was compiled as a whole: wrapped, in place, or its ``forward``."""
    forward = vars(unwrapped(module)).get("forward")
    compiled = unwrapped(module) is not module or is_compiled_in_place(module)
    return compiled or hasattr(forward, "_torchdynamo_orig_callable")


def is_hooked(module: nn.Module) -> bool:
    """Whether Foreseer is attached to ``module``."""
    return listener_of(module) is not None


def listener_of(module: nn.Module) -> Listener | None:
    """What :func:`listen` entered at ``module``, if anything."""
    registry = getattr(module, "_diffusers_hook", None)
    found = registry.get_hook(HOOK_NAME) if registry is not None else None
    return found if isinstance(found, Listener) else None


def foreign_cache(module: nn.Module) -> str | None:
    """The hook of another output cache at ``module`` or inside it, ``None`` where there is none."""
    hooks = (stateful_hook(vars(part)) for part in unwrapped(module).modules())
    return next((hook for hook in hooks if hook is not None), None)


def stateful_hook(members: Mapping[str, Any]) -> str | None:
    """A module's diffusers hook that carries something from one call to the next, other than Foreseer's own."""
    registry = members.get("_diffusers_hook")
    for hook in registry.hooks.values() if registry is not None else ():
        if hook._is_stateful and not isinstance(hook, Listener):
            return type(hook).__name__
    return None


def listen(module: nn.Module, listener: Listener) -> None:
    """Enter ``listener`` at the bottom of the module's registry, where no other hook's coming and going reaches it."""
    unlisten(module)
    registry = HookRegistry.check_if_exists_or_initialize(unwrapped(module))
    registry._fn_refs.insert(0, _Reference())
    registry._hook_order.insert(0, HOOK_NAME)
    registry.hooks[HOOK_NAME] = listener
    _list_anew(registry)


def unlisten(module: nn.Module) -> None:
    """Take the entry out; an empty registry goes too."""
    inner = unwrapped(module)
    registry = vars(inner).get("_diffusers_hook")
    if registry is None or HOOK_NAME not in (*registry.hooks, *registry._hook_order):
        return
    registry._fn_refs = [one for one in registry._fn_refs if not isinstance(one, _Reference)]
    registry._hook_order = [name for name in registry._hook_order if name != HOOK_NAME]
    registry.hooks.pop(HOOK_NAME, None)
    _list_anew(registry)
    if not registry.hooks:
        del inner._diffusers_hook


def _list_anew(registry: Any) -> None:
    """Have diffusers list the hooks below a module anew, where it caches that list."""
    refresh = getattr(registry, "invalidate_child_registries_cache", None)
    if refresh is not None:
        refresh()
