"""What stands in the way of attaching a policy to one denoiser."""

from __future__ import annotations

import warnings

from torch import nn

from foreseer.attach.interception import foreign_cache, is_compiled, is_hooked, unwrapped
from foreseer.attach.network.architecture import how_it_differs
from foreseer.errors import AttachError, ForeseerWarning
from foreseer.plan import Policy
from foreseer.site import Output, Site

NOT_INSIDE = (
    "The site {site} lies inside of this {name}, and a network that is compiled as a whole cannot be entered: compile "
    "its blocks (model.compile_repeated_blocks()) instead, or use site='output'."
)


def check_free(name: str, module: nn.Module, site: Site) -> None:
    """Raise if another cache, another attachment or a compiled whole is in the way."""
    if is_hooked(module):
        raise AttachError(
            f"Foreseer is attached to this {name} already: detach first (handle.detach(), fs.detach(pipe))."
        )
    if isinstance(module, nn.DataParallel):
        raise AttachError(
            f"The {name} is an nn.DataParallel, which copies the network for every call, so that no features can be "
            "kept: use one process per GPU, or attach to its .module on one device."
        )
    if getattr(module, "is_cache_enabled", False):
        raise AttachError(f"The {name}'s own cache is enabled: call {name}.disable_cache() first.")
    cache = foreign_cache(module)
    if cache is not None:
        raise AttachError(f"Another cache is at work inside the {name} ({cache}): remove its hooks first.")
    if not isinstance(site, Output) and is_compiled(module):
        raise AttachError(NOT_INSIDE.format(name=name, site=site))


def check_shared(name: str, module: nn.Module, policy: Policy, site: Site) -> None:
    """Raise if context parallelism splits the tokens and a gate decides by values inside the network.

    Each process sees only its own part of these values, so processes could decide differently and deadlock.
    """
    shared = getattr(getattr(unwrapped(module), "_parallel_config", None), "context_parallel_config", None)
    if shared is None or not policy.decides_while_sampling:
        return
    if not isinstance(site, Output) or policy.signal is not None:
        raise AttachError(
            f"The {name} works on a part of the tokens in each process, and this gate looks inside it: the processes "
            "could decide differently. Use a Policy (a fixed schedule), or a gate on outputs with site='output'."
        )


def check_alike(name: str, module: nn.Module, policy: Policy, allowed: bool) -> None:
    """Raise, or warn if ``allowed``, where the rows were learned on another network."""
    learned_on = policy.learned_on.get("denoiser")
    difference = how_it_differs(module, learned_on) if learned_on is not None else ""
    if not difference:
        return
    message = f"The rows of this policy were learned on another network than this {name}: on {difference}."
    if not allowed:
        raise AttachError(
            f"{message} Calibrate on this pipeline, or give allow_other_network=True (--force on the command line)."
        )
    warnings.warn(f"{message} They may forecast poorly here.", ForeseerWarning, stacklevel=4)
