"""What figures depend on beside the code: versions, device, threads."""

from __future__ import annotations

import platform
from importlib import metadata

from foreseer import __version__

PACKAGES = ("torch", "diffusers", "transformers")


def environment() -> dict[str, str]:
    """Versions, device and threads of this process."""
    import torch

    on_gpu = torch.cuda.is_available()
    versions = {name: version for name in PACKAGES if (version := version_of(name)) is not None}
    return {
        "foreseer": __version__,
        **versions,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def version_of(package: str) -> str | None:
    """The installed version of a package; ``None`` where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
