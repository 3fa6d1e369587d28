"""The bundled trained pipeline: text to 64 x 64 emoji, in diffusers' folder format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMES = ("emoji",)


def path(name: str = "emoji") -> Path:
    """The folder of a bundled pipeline, as ``from_pretrained`` takes it.

    Raises:
        ValueError: no pipeline of that name is bundled.
    """
    if name not in NAMES:
        raise ValueError(f"No bundled pipeline is called {name!r}; there is {', '.join(NAMES)}.")
    return Path(__file__).parent / name


def load(name: str = "emoji", **options: Any) -> Any:
    """The bundled pipeline, ready to call; ``options`` go to ``FluxPipeline.from_pretrained``."""
    from diffusers import FluxPipeline

    return FluxPipeline.from_pretrained(path(name), local_files_only=True, **options)


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
