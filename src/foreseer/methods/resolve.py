"""From a name to a policy. Nothing else in Foreseer does this."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from foreseer.checks import one_target, unknown_name
from foreseer.errors import ForeseerWarning, PlanError, in_one_line, naming_the_extra
from foreseer.files import kind_of
from foreseer.forecast import Reuse
from foreseer.kernel import Kernel
from foreseer.methods.defaults import DEFAULT_METHOD, DEFAULT_SPEEDUP
from foreseer.methods.method import BudgetPolicy, Method, method_of
from foreseer.methods.profile import Profile
from foreseer.methods.quality import error_of
from foreseer.methods.registry import METHODS
from foreseer.plan import FixedPlan, Plan, Policy, ScheduledPolicy
from foreseer.schedule import Optimal, Uniform
from foreseer.schedule.base import budget_at
from foreseer.site import read_site

GROUP = "foreseer.methods"  # entry points of installed packages
LEARNED = ("kernel", "gated")  # methods that a kernel alone makes
Learned = Kernel | str | os.PathLike[str]


@lru_cache(maxsize=1)
def _installed() -> Mapping[str, Method]:
    """Methods of installed packages; one that fails to load is reported and left out."""
    methods: dict[str, Method] = {}
    for entry in entry_points(group=GROUP):
        try:
            methods[entry.name] = method_of(entry.name, entry.load())
        except Exception as error:  # noqa: BLE001 - other people's code
            message = f"The method {entry.name!r} of {entry.value} was left out: {in_one_line(error)}."
            warnings.warn(message, ForeseerWarning, stacklevel=2)
    return methods


def names() -> tuple[str, ...]:
    """Return the names that :func:`find` accepts: Foreseer's methods, then those of installed packages."""
    return tuple(dict.fromkeys([*METHODS, *_installed()]))


def find(name: str) -> Method:
    """Return the method called ``name``; ``module:attribute`` imports a user-defined method.

    Raises:
        PlanError: no method has this name, or it cannot be imported.
    """
    if name in METHODS:
        return METHODS[name]
    if isinstance(name, str) and ":" in name:
        return _imported(name)
    installed = _installed()
    if name in installed:
        return installed[name]
    raise PlanError(unknown_name("method", name, names()))


def _imported(name: str) -> Method:
    module, _, attribute = name.partition(":")
    try:
        definition = getattr(importlib.import_module(module), attribute)
        return method_of(name, definition)
    except PlanError:
        raise
    except Exception as error:
        raise PlanError(f"The method {name!r} cannot be loaded: {in_one_line(error)}.") from error


def resolve(
    name: str,
    *,
    steps: int | None = None,
    nfe: int | None = None,
    speedup: float | None = None,
    max_error: float | None = None,
    profile: Learned | None = None,
    site: str | None = None,
    matrix: str | os.PathLike[str] | None = None,
) -> Policy:
    """The policy of a method by name, at its published setting or at a budget.

    Args:
        name: of :func:`names`; ``"kernel"`` or ``"gated"`` for what ``profile`` teaches; or ``module:attribute``.
        steps: the run's step count. Without it, a budget binds to each run's actual step count.
        nfe: number of computed steps; or
        speedup: steps divided by computed steps; or
        max_error: relative error of the final sample to keep, with a kernel.
        profile: a kernel, or a file of one. With it, a formula's steps are searched for its rows, and L2P is trained.
        site: where the feature is taken, in place of the method's site.
        matrix: a released L2P weight file.

    Raises:
        PlanError: the name is unknown, or something is missing or does not go together.
        ScheduleError: the budget does not fit.
    """
    target = one_target(PlanError, {"nfe": nfe, "speedup": speedup, "max_error": max_error})
    kernel = _kernel(profile)
    if name in LEARNED:
        if kernel is None:
            raise PlanError(f"{name!r} needs a kernel: give profile=, from fs.calibrate(pipe, prompts).")
        return _learned(name, kernel, **target)
    method = find(name)
    if matrix is not None:
        method = method.with_matrix(matrix)
    elif method.name == "l2p" and kernel is not None:
        from foreseer.methods.train_l2p import train_l2p

        method = replace(method, forecaster=train_l2p(kernel))
    if kernel is not None and method.forecaster is not None and method.gate is None and target:
        schedule = Optimal(kernel, nfe, speedup, max_error, method.forecaster)
        return ScheduledPolicy(schedule, method.forecaster, site or kernel.site)
    if max_error is not None:
        raise PlanError(f"{method.title} cannot predict the error, a kernel or profile can: give one, or a budget.")
    if not target:
        return method.policy(steps or 50, None, site)
    if steps is None:
        return BudgetPolicy(method, nfe, speedup, site)
    return BudgetPolicy(method, nfe, speedup, site).of_run(steps)


def policy_for(
    request: Any,
    *,
    nfe: int | None = None,
    speedup: float | None = None,
    max_error: float | None = None,
    quality: str | None = None,
    site: str | None = None,
) -> Policy:
    """The policy that a user asks for, in whatever form.

    Args:
        request: a method's name, a policy, a plan, a profile, a kernel, a file of one of these, or a profile's
            repository on the Hugging Face Hub; ``None`` for the default (`foreseer.methods.defaults`).
        nfe: number of computed steps; or
        speedup: steps divided by computed steps; or
        max_error: relative error of the final latent to keep, with a kernel or profile; or
        quality: a level of `foreseer.methods.quality`, with a kernel or profile.
        site: where the feature is taken, in place of a named method's site.

    Raises:
        PlanError: the request is not understood, or the target does not go with it.
    """
    targets = {"nfe": nfe, "speedup": speedup, "max_error": max_error, "quality": quality}
    target = one_target(PlanError, targets)
    request = _opened(request)
    if site is not None and not (request is None or isinstance(request, str)):
        raise PlanError(f"A {type(request).__name__} has its own site; leave site={site!r} out.")
    if isinstance(request, Policy | Plan):
        if target:
            raise PlanError(f"A {type(request).__name__} has its own budget; leave {next(iter(target))} out.")
        return request if isinstance(request, Policy) else FixedPlan(request)
    if isinstance(request, Kernel):
        request = Profile(request)
    if isinstance(request, Profile):
        return request.policy(**target)
    if site is not None:
        site = str(read_site(site))
    if quality is not None and error_of(quality) is not None:
        raise PlanError(
            f"quality={quality!r} needs a profile or kernel, which predicts the error: give one, or nfe or speedup."
        )
    if quality == "exact":
        return ScheduledPolicy(Uniform(interval=1), Reuse(), site or "output")
    if request is None and not target:
        speedup = DEFAULT_SPEEDUP
    method = DEFAULT_METHOD if request is None else request
    return resolve(method, nfe=nfe, speedup=speedup, max_error=max_error, site=site)


def _opened(request: Any) -> Any:
    """``request``, or what the file or repository that it names holds.

    Raises:
        PlanError: it is of another type.
    """
    if request is None or isinstance(request, Policy | Plan | Profile | Kernel):
        return request
    if not isinstance(request, str | os.PathLike):
        kind = type(request).__name__
        raise PlanError(f"Expected a method's name, a Policy, a Plan, a Profile, a Kernel or a file; received {kind}.")
    name = os.fspath(request)
    if name in METHODS or name in _installed() or ":" in name:
        return name
    if os.path.isfile(name):
        return _of_file(name)
    if name.endswith(".safetensors"):
        raise PlanError(f"There is no file {name}.")
    if "/" in name or os.path.isdir(name):
        return Profile.from_pretrained(name)
    return name


def _of_file(path: str) -> Any:
    """The profile, plan or kernel that a file holds."""
    kind = kind_of(path)
    loaders = {"profile": Profile.load, "plan": Plan.load, "kernel": Kernel.load}
    if kind not in loaders:
        raise PlanError(f"{path} is not a profile, plan or kernel of Foreseer.")
    return loaders[kind](path)


def _learned(name: str, kernel: Kernel, **target: Any) -> Policy:
    if name == "gated":
        with naming_the_extra():
            from foreseer.methods.gated import gated

        if "speedup" in target:
            target = {"nfe": max(2, budget_at(len(kernel.grid), None, target["speedup"]))}
        return gated(kernel, **target)
    from foreseer.methods.learned import learned

    return learned(kernel, **target)


def _kernel(profile: Learned | None) -> Kernel | None:
    if profile is None or isinstance(profile, Kernel):
        return profile
    if isinstance(profile, str | os.PathLike):
        return Kernel.load(profile)
    raise PlanError(f"profile is a {type(profile).__name__}; expected a Kernel or a file of one.")
