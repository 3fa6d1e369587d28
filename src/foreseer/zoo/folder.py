"""Folders of bundled pipelines, and what a pipeline's folder says about how to call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foreseer.checks import check_count
from foreseer.errors import ForeseerError
from foreseer.files import read_json, read_text, reason, shortened

NAMES = ("emoji",)
MOST_SAMPLING = 2**20  # bytes


class ZooError(ForeseerError, ValueError):
    """No pipeline of that name is bundled, or a folder's ``sampling.json`` cannot be used."""


def path(name: str = "emoji") -> Path:
    """The folder of a bundled pipeline, as ``from_pretrained`` takes it.

    Raises:
        ZooError: no pipeline of that name is bundled.
    """
    if name not in NAMES:
        raise ZooError(f"No bundled pipeline is called {name!r}: expected one of {', '.join(NAMES)}.")
    return Path(__file__).parent / name


def kernel_path(name: str = "emoji") -> Path:
    """Return the path of the kernel that was calibrated on a bundled pipeline."""
    return path(name).with_name(f"{name}.kernel.safetensors")


def plan_path(name: str = "emoji", nfe: int = 10) -> Path:
    """Return the path of a bundled pipeline's rollout plan for 50 steps; only ``nfe=10`` is bundled."""
    return path(name).with_name(f"{name}-{nfe}.plan.safetensors")


def sampling(folder: str | Path) -> dict[str, Any]:
    """Return the call options in a pipeline's folder (``sampling.json``); empty without such a file.

    Raises:
        ZooError: the file cannot be read or is not a JSON object, ``prompts`` is not a list of strings, or
            ``num_inference_steps`` is not a positive integer.
    """
    file = Path(folder) / "sampling.json"
    try:
        if not file.exists():
            return {}
        found = read_json(read_text(file, MOST_SAMPLING))
    except (OSError, ValueError) as error:
        raise ZooError(f"Cannot read {file}: {reason(error)}.") from error
    if not isinstance(found, dict):
        raise ZooError(f"{file} holds no options by name.")
    prompts = found.get("prompts", [])
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ZooError(f"{file}: its prompts are {shortened(repr(prompts), 60)}; expected a list of words.")
    if "num_inference_steps" in found:
        check_count(f"{file}: num_inference_steps", found["num_inference_steps"], ZooError, least=1)
    return found
