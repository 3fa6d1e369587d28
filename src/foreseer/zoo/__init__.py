"""The bundled trained pipeline: text to 64 x 64 emoji, in diffusers' folder format."""

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


def load(name: str = "emoji", **options: Any) -> Any:
    """The bundled pipeline, ready to call; ``options`` go to ``FluxPipeline.from_pretrained``.

    Its call has the defaults that ``sampling.json`` states: size, text length, number of steps.

    Raises:
        ZooError: no pipeline of that name is bundled.
    """
    folder = path(name)
    from foreseer.zoo.pipeline import FluxPipeline

    return FluxPipeline.from_pretrained(folder, local_files_only=True, **options)


def kernel_path(name: str = "emoji") -> Path:
    """The kernel that was calibrated on a bundled pipeline."""
    return path(name).with_name(f"{name}.kernel.safetensors")


def plan_path(name: str = "emoji", nfe: int = 10) -> Path:
    """The rollout plan of a bundled pipeline for 50 steps; there is one for 10 evaluations."""
    return path(name).with_name(f"{name}-{nfe}.plan.safetensors")


def sampling(folder: str | Path) -> dict[str, Any]:
    """What a pipeline's folder says of how to call it (``sampling.json``); empty where it says nothing.

    Raises:
        ZooError: the file cannot be read, or does not hold options by name, ``prompts`` a list of words and
            ``num_inference_steps`` a whole number among them.
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
