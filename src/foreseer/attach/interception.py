"""Reversible interception of one module's calls, and a listener for diffusers' cache contexts.

Calls are intercepted at ``_compiled_call_impl``, which ``nn.Module.__call__`` looks up first. Changes to ``forward``
(hooks of accelerate and diffusers, adapters, ``torch.compile``) take effect inside the interception and cannot remove
it. A copy of the module is not attached, because its state leaves that attribute out.
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
from torch._C import _get_dispatch_mode, _TorchDispatchModeKey  # pyright: ignore[reportAttributeAccessIssue]
from torch._C._dynamo import eval_frame
from torch._dynamo import decorators as dynamo_decorators

from foreseer.errors import AttachError, ForeseerWarning

HOOK_NAME = "foreseer"
_CALL = "_compiled_call_impl"

_COMPILE_FIRST = (
    "torch.compile was put around a module that Foreseer is attached to. Detach (handle.detach()), compile, attach "
    "again; or compile in place: module.compile()."
)

_EXPORT_FIRST = (
    "Foreseer is attached to this module, which cannot be exported or traced so: detach first (handle.detach())."
)

Forward = Callable[..., Any]


class CacheContext(StateManager):
    """Name of the surrounding ``cache_context``, stored per thread."""

    def __init__(self) -> None:
        super().__init__(BaseState)  # pyright: ignore[reportArgumentType]
        self._names = threading.local()

    def set_context(self, context: Any) -> None:
        """Set the context of a call: an object with a name (diffusers 0.41 on), a string before, or ``None``."""
        self._names.value = getattr(context, "name", context)

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Forget this thread's name."""
        self._names.value = None

    @property
    def name(self) -> str | None:
        """The name, ``None`` outside a context."""
        return getattr(self._names, "value", None)


class Listener(ModelHook):
    """Entry in a diffusers hook registry that receives contexts and resets but does not wrap ``forward``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelHook, ()  # a copy of the module is not attached: its entry does nothing


class _Reference(HookFunctionReference):
    """Function reference that the registry keeps per hook; the subclass identifies Foreseer's entry."""


class Interception:
    """Interception of the calls of ``module`` from :meth:`install` to :meth:`remove`.

    Both may be interrupted at any line (Ctrl-C) and called again; each then completes the remaining work.

    Args:
        module: the instance; its class and its ``forward`` are not touched.
        call: called in place of the module, with the module's own call and the arguments.
        no_compile: reason why the module must not be compiled as a whole, ``None`` if it may be.
    """

    def __init__(self, module: nn.Module, call: Callable[..., Any], no_compile: str | None = None) -> None:
        self._module = module
        self._before = vars(module).get(_CALL)
        self._own: Forward = self._before or module._call_impl
        self._no_compile = no_compile
        self._below = vars(module).get("compile")

        def outermost(*args: Any, **kwargs: Any) -> Any:
            if (
                torch.compiler.is_exporting()
                or torch._C._get_tracing_state() is not None
                or _get_dispatch_mode(_TorchDispatchModeKey.PROXY) is not None
            ):  # the graph would hold this step's forecast
                raise AttachError(_EXPORT_FIRST)
            if eval_frame.get_eval_frame_callback() not in (None, False):  # torch.compile would split the call
                raise AttachError(_COMPILE_FIRST)
            return call(self._own, *args, **kwargs)

        # Like torch.compiler.disable(recursive=False), whose own error under torch.export names no remedy.
        self._outermost = dynamo_decorators.skip(outermost)
        vars(outermost)["_torchdynamo_disable_msg"] = _COMPILE_FIRST

    def install(self) -> None:
        """Start to intercept the calls."""
        vars(self._module).update({_CALL: self._outermost, "compile": _Compile(self._module, self)})  # both at once

    def remove(self) -> None:
        """Restore the module; then warn if other code replaced its calls in the meantime."""
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
        """Compile the module like ``nn.Module.compile``, inside this interception.

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
    """Replacement of ``module.compile``, which would overwrite the interception."""

    def __init__(self, module: nn.Module, interception: Interception) -> None:
        self._module = module
        self.interception = interception

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.interception.compile(*args, **kwargs)

    @property
    def innermost(self) -> Forward | None:
        """The module's ``_compiled_call_impl`` before the first interception, ``None`` if it was not set."""
        below = self.interception._below
        return below.innermost if isinstance(below, _Compile) else self.interception._before

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module, "compile")  # in a copy of the module: the copy's own method


def _put(members: dict[str, Any], name: str, value: Any) -> None:
    """Restore an attribute; ``None`` deletes it."""
    if value is None:
        del members[name]
    else:
        members[name] = value


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside a ``torch.compile`` wrapper, or the module itself if it has none."""
    return getattr(module, "_orig_mod", module)


def is_compiled_in_place(module: nn.Module) -> bool:
    """Return whether ``module.compile()`` was called, with or without an interception."""
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
    """Return the listener that :func:`listen` registered at ``module``, if any."""
    registry = getattr(module, "_diffusers_hook", None)
    found = registry.get_hook(HOOK_NAME) if registry is not None else None
    return found if isinstance(found, Listener) else None


def foreign_cache(module: nn.Module) -> str | None:
    """Return the class name of another output cache's hook on ``module`` or inside it, else ``None``."""
    hooks = (stateful_hook(vars(part)) for part in unwrapped(module).modules())
    return next((hook for hook in hooks if hook is not None), None)


def stateful_hook(members: Mapping[str, Any]) -> str | None:
    """Return the class name of a stateful diffusers hook other than Foreseer's, else ``None``."""
    registry = members.get("_diffusers_hook")
    for hook in registry.hooks.values() if registry is not None else ():
        if hook._is_stateful and not isinstance(hook, Listener):
            return type(hook).__name__
    return None


def listen(module: nn.Module, listener: Listener) -> None:
    """Register ``listener`` as the innermost hook; adding or removing other hooks leaves it in place."""
    unlisten(module)
    registry = HookRegistry.check_if_exists_or_initialize(unwrapped(module))
    registry._fn_refs.insert(0, _Reference())
    registry._hook_order.insert(0, HOOK_NAME)
    registry.hooks[HOOK_NAME] = listener
    _list_anew(registry)


def unlisten(module: nn.Module) -> None:
    """Remove the listener, and the registry if it is then empty."""
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
    """Invalidate diffusers' cached list of the hooks below a module, in versions that cache it."""
    refresh = getattr(registry, "invalidate_child_registries_cache", None)
    if refresh is not None:
        refresh()
