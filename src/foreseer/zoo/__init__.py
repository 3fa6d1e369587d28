"""The bundled trained pipeline: text to 64 x 64 emoji, in diffusers' folder format."""

from __future__ import annotations

from typing import Any

from foreseer.errors import naming_the_extra
from foreseer.zoo.folder import NAMES, ZooError, kernel_path, path, plan_path, sampling

__all__ = ["NAMES", "ZooError", "kernel_path", "load", "path", "plan_path", "sampling"]


def load(name: str = "emoji", **options: Any) -> Any:
    """The bundled pipeline, ready to call; ``options`` go to ``FluxPipeline.from_pretrained``.

    Its call has the defaults that ``sampling.json`` states: size, text length, number of steps.

    Raises:
        ZooError: no pipeline of that name is bundled.
        MissingPackageError: torch or diffusers is not installed.
    """
    folder = path(name)
    with naming_the_extra():
        from foreseer.zoo.pipeline import FluxPipeline

    return FluxPipeline.from_pretrained(folder, local_files_only=True, **options)
