"""What hosts offer: methods by name, and profiles by file."""

from __future__ import annotations

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


def load_profile(path: str) -> Profile:
    """The profile in a file, which may hold a kernel alone.

    Raises:
        ForeseerError: the file cannot be read, or holds something else.
    """
    return Profile(Kernel.load(path)) if kind_of(path) == "kernel" else Profile.load(path)
