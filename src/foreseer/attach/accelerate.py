"""`accelerate`: put a policy on a pipeline's denoisers, or on one module."""

from __future__ import annotations

import os
import reprlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from foreseer.attach.denoiser_hook import DenoiserHook
from foreseer.attach.handle import Handle, OnOtherGuidance
from foreseer.attach.interception import is_compiled, listener_of, unwrapped
from foreseer.attach.network.denoisers import DENOISER_NAMES, find_denoisers, timestep_takers
from foreseer.attach.obstacles import NOT_INSIDE, check_alike, check_free, check_shared
from foreseer.attach.signals.base import SIGNALS, SignalProbe
from foreseer.attach.sites.base import SiteHook
from foreseer.attach.sites.last_block import LastBlockSite
from foreseer.attach.sites.modules import ModuleSite
from foreseer.attach.sites.output import OutputSite
from foreseer.attach.sites.residual import ResidualSite
from foreseer.attach.sites.tokens import TokenSite
from foreseer.checks import check_flags
from foreseer.errors import AttachError
from foreseer.guidance import Guidance
from foreseer.methods import policy_for
from foreseer.pipelines.call_guidance import guidance_of_run
from foreseer.plan import Plan, Policy
from foreseer.runtime import KEEPS, Keep
from foreseer.scheduler_levels import is_scheduler
from foreseer.site import LastBlock, Modules, Output, Residual, Site, Tokens, read_site

_HOOKS: dict[type[Site], Callable[[nn.Module, Any], SiteHook]] = {
    Output: lambda module, site: OutputSite(),
    LastBlock: lambda module, site: LastBlockSite(module),
    Modules: lambda module, site: ModuleSite(module),
    Tokens: TokenSite,
    Residual: ResidualSite,
}


def accelerate(
    pipe_or_model: Any,
    method: Any = None,
    *,
    nfe: int | None = None,
    speedup: float | None = None,
    max_error: float | None = None,
    quality: str | None = None,
    site: str | None = None,
    scheduler: Any = None,
    keep: Keep = "device",
    strict: bool = False,
    allow_other_network: bool = False,
    allow_other_guidance: bool = False,
) -> Handle:
    """Accelerate a diffusers pipeline, or one denoiser, until the handle is detached.

    Budgets bind to each run's actual step count. A method by name whose site the model does not offer falls back to the
    output site, with a warning. Nothing but this instance is touched. Works as a call, and as a context manager that
    detaches on leaving.

    Args:
        pipe_or_model: a pipeline with a ``transformer`` (and ``transformer_2``) or ``unet`` and others of its class, or
            with one module that takes a timestep, whatever its name; or such a module itself.
        method: a method's name (``foreseer methods``), a Policy, a Plan, a Profile, a Kernel, a file of one of these,
            or a profile's repository on the Hugging Face Hub. By default "generic", at a speedup of 2.5
            (`foreseer.methods.defaults`).
        nfe: number of steps to compute; or
        speedup: number of steps divided by the number of computed steps; or
        max_error: expected relative error of the final latent to keep (with a kernel or profile); or
        quality: "exact", "lossless", "high", "balanced" or "fast" (with a profile).
        site: where the feature is taken, in place of a named method's site.
        scheduler: for a bare module, the scheduler that its sampling loop uses; a pipeline brings its own.
        keep: ``"device"`` keeps features where they are computed, ``"host"`` in pinned host memory.
        strict: raise where a step meant to be forecast would be computed, instead of computing it with a warning.
        allow_other_network: warn, instead of raising, where the rows were learned on another class or size of network.
        allow_other_guidance: warn, instead of raising when a run begins, where the rows were learned without guidance,
            with it, or at a very different scale.

    Returns:
        The handle: ``print(handle)`` sums up the last run, ``.record`` has the details, ``.detach()``.

    Raises:
        AttachError: nothing to attach to, something is attached already, the model's own cache is enabled, the
            site lies inside of a model that was compiled as a whole, a bare module came without its scheduler, or the
            rows were learned on another network; or a flag is neither True nor False. The pipeline's call raises it
            where its guidance is another one.
        PlanError: the method is unknown, or the budget does not go with it.
    """
    allowed = {"allow_other_network": allow_other_network, "allow_other_guidance": allow_other_guidance}
    check_flags(AttachError, strict=strict, **allowed)
    targets = {"nfe": nfe, "speedup": speedup, "max_error": max_error, "quality": quality}
    policy = policy_for(method, site=site, **targets)
    by_name = method is None or isinstance(method, str)
    return attach(
        pipe_or_model,
        policy,
        scheduler=scheduler,
        keep=keep,
        strict=strict,
        fallback=by_name and site is None,
        allow_other_network=allow_other_network,
        on_other_guidance="warn" if allow_other_guidance else "refuse",
    )


def detach(pipe_or_model: Any) -> None:
    """Detach whatever handle is attached, whoever holds it; nothing happens where none is.

    Args:
        pipe_or_model: what was attached to, or another pipeline that holds the same denoiser.

    Raises:
        AttachError: it has no denoiser that anything could be attached to.
    """
    single = {"": pipe_or_model} if isinstance(pipe_or_model, nn.Module) else {}
    denoisers = single or find_denoisers(pipe_or_model)
    if not denoisers:
        raise AttachError(_nothing_to_attach_to(pipe_or_model))
    for module in denoisers.values():
        listener = listener_of(module)
        if isinstance(listener, DenoiserHook) and listener.handle is not None:
            listener.handle.detach()


def attach(
    pipe_or_model: Any,
    policy: Policy | Plan,
    *,
    scheduler: Any = None,
    keep: Keep = "device",
    strict: bool = False,
    make_site: Callable[[nn.Module], SiteHook] | None = None,
    fallback: bool = False,
    allow_other_network: bool = False,
    on_other_guidance: OnOtherGuidance = "refuse",
) -> Handle:
    """Attach a policy, with another site from ``make_site``, or the output site as ``fallback``."""
    if isinstance(policy, Plan):
        policy = Policy.from_plan(policy)
    if not isinstance(policy, Policy):
        raise AttachError(f"Expected a Policy or a Plan, received {type(policy).__name__}.")
    if keep not in KEEPS:
        raise AttachError(f"keep is {keep!r}; expected one of {', '.join(KEEPS)}.")
    if scheduler is not None and not is_scheduler(scheduler):
        raise AttachError(f"Expected a scheduler of diffusers, received {reprlib.repr(scheduler)}.")
    denoisers, find_scheduler = _denoisers(pipe_or_model, scheduler)
    wanted = read_site(policy.site)
    if fallback and not isinstance(wanted, Output) and any(map(is_compiled, denoisers.values())):
        wanted = Output()  # a network compiled as a whole cannot be entered
    for name, module in denoisers.items():
        check_free(name or type(module).__name__, module, wanted)
        check_shared(name or type(module).__name__, module, policy, wanted)
        check_alike(name or type(module).__name__, module, policy, allow_other_network)
    detachers: list[Callable[[], None]] = []
    replaced = _replaced_denoisers(pipe_or_model, denoisers)
    unattached = _unattached(pipe_or_model, denoisers)
    handle = Handle(policy, detachers, strict, replaced, unattached, on_other_guidance=on_other_guidance)
    hooks = []
    for name, module in denoisers.items():
        site = make_site(module) if make_site is not None else make_hook(wanted, module)
        prefix = f"{name} " if len(denoisers) > 1 else ""
        hook = DenoiserHook(
            module,
            prefix,
            scheduler=find_scheduler,
            guidance=_guidance_of(pipe_or_model),
            policy=policy,
            keep=keep,
            site=site,
            signal=_signal(policy, module),
            fallback=fallback,
        )
        hook.handle = handle
        no_compile = NOT_INSIDE.format(name=name or type(module).__name__, site=wanted)
        hooks.append((hook, None if isinstance(wanted, Output) else no_compile))
    _put_on(hooks, handle, detachers)
    return handle


def _put_on(
    hooks: Sequence[tuple[DenoiserHook, str | None]], handle: Handle, detachers: list[Callable[[], None]]
) -> None:
    """Attach all hooks, or none if one fails."""
    try:
        for hook, no_compile in hooks:
            detachers.append(hook.detach)
            hook.attach(no_compile)
    except BaseException:
        handle.detach_silently()
        raise


def _unattached(pipe_or_model: Any, denoisers: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Return the names of other modules of the pipeline that take a timestep."""
    attached = set(map(id, denoisers.values()))
    others = [] if isinstance(pipe_or_model, nn.Module) else timestep_takers(pipe_or_model).items()
    return tuple(name for name, module in others if id(module) not in attached)


def make_hook(site: Site, module: nn.Module) -> SiteHook:
    """The hook that takes features of ``module`` at ``site``."""
    return _HOOKS[type(site)](module, site)


def _denoisers(pipe_or_model: Any, scheduler: Any) -> tuple[dict[str, nn.Module], Callable[[], Any]]:
    """The denoisers by name, and a function that returns the scheduler of their next call."""
    if isinstance(pipe_or_model, nn.Module):
        if scheduler is None:
            raise AttachError(
                "A bare module does not know its sampling loop: pass scheduler=..., pass the whole pipeline, or use "
                "fs.wrap for a loop of your own."
            )
        return {"": pipe_or_model}, lambda: scheduler
    denoisers = find_denoisers(pipe_or_model)
    if not denoisers or getattr(pipe_or_model, "scheduler", None) is None:
        raise AttachError(_nothing_to_attach_to(pipe_or_model))
    return denoisers, _scheduler_of(pipe_or_model) if scheduler is None else lambda: scheduler


def _scheduler_of(pipe: Any) -> Callable[[], Any]:
    """Return a function that returns the pipeline's current scheduler.

    After the pipeline is freed, while a pipeline made by ``from_pipe`` still uses its parts, the function returns the
    last scheduler it saw.
    """
    reference, last = weakref.ref(pipe), [pipe.scheduler]

    def scheduler() -> Any:
        pipe = reference()
        if pipe is not None:
            last[0] = pipe.scheduler
        return last[0]

    return scheduler


def _guidance_of(pipe_or_model: Any) -> Callable[[], Guidance | None]:
    """Return a function that returns the guidance of the call in progress."""
    if isinstance(pipe_or_model, nn.Module):
        return lambda: guidance_of_run(None)
    pipe = weakref.ref(pipe_or_model)
    return lambda: guidance_of_run(pipe())


def _replaced_denoisers(pipe_or_model: Any, denoisers: dict[str, nn.Module]) -> Callable[[], list[str]]:
    """Return a function that lists the denoisers that the pipeline has replaced by other modules since."""
    if isinstance(pipe_or_model, nn.Module):
        return list
    pipe = weakref.ref(pipe_or_model)

    def replaced() -> list[str]:
        now = {name: getattr(pipe(), name, None) for name in denoisers}
        return [
            name
            for name, module in now.items()
            if isinstance(module, nn.Module) and unwrapped(module) is not unwrapped(denoisers[name])
        ]

    return replaced


def _nothing_to_attach_to(pipe: Any) -> str:
    remedy = "Attach to its denoising module: fs.accelerate(module, policy, scheduler=...)."
    if isinstance(pipe, os.PathLike) or type(pipe).__module__ == "builtins":
        return f"Expected a diffusers pipeline, loaded, or a network; received {reprlib.repr(pipe)}."
    if getattr(pipe, "scheduler", None) is None:
        return f"{type(pipe).__name__} has no scheduler, which gives the noise levels. {remedy}"
    taking = ", ".join(timestep_takers(pipe))
    which = f"several modules that take a timestep ({taking})" if taking else "no module that takes a timestep"
    return (
        f"{type(pipe).__name__} has no denoiser by the names that diffusers uses ({', '.join(DENOISER_NAMES)}), and "
        f"{which}. {remedy}"
    )


def _signal(policy: Policy, module: nn.Module) -> SignalProbe | None:
    if policy.signal is None:
        return None
    if policy.signal not in SIGNALS:
        raise AttachError(f"Unknown signal {policy.signal!r}: expected one of {', '.join(SIGNALS)}.")
    return SIGNALS[policy.signal](module)
