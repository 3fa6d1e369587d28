"""What figures depend on beside the code: versions, device, threads."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from foreseer import __version__

PACKAGES = ("torch", "diffusers", "transformers")


def environment(pipe: Any = None) -> dict[str, str]:
    """Versions, device and threads of this process; the device is the one that ``pipe`` runs on, where it is given."""
    import torch

    on_gpu = torch.cuda.is_available() if pipe is None else runs_on_gpu(pipe)
    versions = {name: version for name in PACKAGES if (version := version_of(name)) is not None}
    return {
        "foreseer": __version__,
        **versions,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def runs_on_gpu(pipe: Any) -> bool:
    """Whether a diffusers pipeline computes on a GPU; one that is offloaded does, wherever its weights wait."""
    import torch

    return torch.device(getattr(pipe, "_execution_device", "cpu")).type == "cuda"


def version_of(package: str) -> str | None:
    """The installed version of a package; ``None`` where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
