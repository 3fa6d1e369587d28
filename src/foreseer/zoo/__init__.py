"""The bundled trained pipeline: text to 64 x 64 emoji, in diffusers' folder format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foreseer.errors import ForeseerError

NAMES = ("emoji",)


class ZooError(ForeseerError, ValueError):
    """No pipeline of that name is bundled."""


def path(name: str = "emoji") -> Path:
    """The folder of a bundled pipeline, as ``from_pretrained`` takes it.

    Raises:
        ZooError: no pipeline of that name is bundled.
    """
    if name not in NAMES:
        raise ZooError(f"No bundled pipeline is called {name!r}: expected one of {', '.join(NAMES)}.")
    return Path(__file__).parent / name


def load(name: str = "emoji", **options: Any) -> Any:
    """The bundled pipeline, ready to call; ``options`` go to ``FluxPipeline.from_pretrained``.

    Raises:
        ZooError: no pipeline of that name is bundled.
    """
    folder = path(name)
    from diffusers import FluxPipeline

    return FluxPipeline.from_pretrained(folder, local_files_only=True, **options)


def kernel_path(name: str = "emoji") -> Path:
    """The kernel that was calibrated on a bundled pipeline."""
    return path(name).with_name(f"{name}.kernel.safetensors")


def plan_path(name: str = "emoji", nfe: int = 10) -> Path:
    """The rollout plan of a bundled pipeline for 50 steps; there is one for 10 evaluations."""
    return path(name).with_name(f"{name}-{nfe}.plan.safetensors")


def sampling(folder: str | Path) -> dict[str, Any]:
    """What a pipeline's folder says of how to call it (``sampling.json``); empty where it says nothing."""
    file = Path(folder) / "sampling.json"
    return json.loads(file.read_text()) if file.is_file() else {}
