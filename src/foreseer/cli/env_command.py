"""``foreseer env``."""

from __future__ import annotations

import json

import typer
from rich.table import Table

from foreseer.cli.common import Json, console

# Packages that the core, the extras and peers use.
PACKAGES = (
    *("numpy", "safetensors", "torch", "diffusers", "transformers", "accelerate", "huggingface_hub"),
    *("cache-dit", "scikit-image", "matplotlib", "pillow", "imageio-ffmpeg", "peft"),
)


def env(as_json: Json = False) -> None:
    """Print versions, system and device, for bug reports."""
    from foreseer.evaluate.sampling.environment import environment, version_of

    try:
        facts = environment()
    except ModuleNotFoundError:
        facts = environment(device=False)
    facts |= {name: version_of(name) or "not installed" for name in PACKAGES}
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    console.print(table)
