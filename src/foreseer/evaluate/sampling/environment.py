"""Versions, device and threads: what measured figures depend on besides the code."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from foreseer import __version__

PACKAGES = ("torch", "diffusers", "transformers")


def environment(pipe: Any = None, device: bool = True) -> dict[str, str]:
    """Return versions, device and threads of this process; the device is that of ``pipe`` if one is given.

    Args:
        pipe: a diffusers pipeline.
        device: whether to include device and threads, which imports torch.
    """
    versions = {name: version for name in PACKAGES if (version := version_of(name)) is not None}
    facts = {
        "foreseer": __version__,
        **versions,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }
    if not device:
        return facts
    import torch

    return {**facts, "device": device_name(pipe), "threads": str(torch.get_num_threads())}


def device_name(pipe: Any = None) -> str:
    """Return the kind of GPU or processor that ``pipe`` runs on, or that this process has."""
    import torch

    on_gpu = torch.cuda.is_available() if pipe is None else runs_on_gpu(pipe)
    return torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()


def runs_on_gpu(pipe: Any) -> bool:
    """Return whether a diffusers pipeline computes on a GPU, as an offloaded one does."""
    import torch

    return torch.device(getattr(pipe, "_execution_device", "cpu")).type == "cuda"


def version_of(package: str) -> str | None:
    """Return the installed version of a package, or ``None``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
