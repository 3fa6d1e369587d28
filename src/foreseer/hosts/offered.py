"""What hosts offer: methods by name, and profiles by file."""

from __future__ import annotations

import os

from foreseer.files import kind_of
from foreseer.kernel import Kernel
from foreseer.methods import METHODS
from foreseer.methods.profile import Profile


def output_methods() -> tuple[str, ...]:
    """Names of the methods that can be served call by call, on the network's output alone."""
    names = []
    for name, method in METHODS.items():
        if method.reduces_steps or method.forecaster is None or method.site not in ("output", "last_block"):
            continue
        names.append(name)
    return tuple(names)


def load_profile(name: str) -> Profile:
    """The profile in a file, which may hold a kernel alone, in a folder or in a repository on the Hub.

    Raises:
        ForeseerError: it cannot be read or downloaded, or holds something else.
    """
    if kind_of(name) == "kernel":
        return Profile(Kernel.load(name))
    if os.path.isfile(name) or name.endswith(".safetensors"):
        return Profile.load(name)
    return Profile.from_pretrained(name)
