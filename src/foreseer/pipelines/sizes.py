"""Sizes that a pipeline draws, from the configuration in its folder and the source of its class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreseer.pipelines.call_source import divisors_in_source
from foreseer.pipelines.loading import PipelineError, read_config

MOST_PIXELS = 2**14  # of a side; the largest models draw 4096


def check_sizes(folder: Path, pipeline: str, options: Mapping[str, Any]) -> None:
    """Refuse sizes that the model in ``folder`` does not draw.

    Args:
        folder: the model's folder; without one, only sizes that no model draws are refused.
        pipeline: name of the pipeline's class.
        options: options of the pipeline's call.

    Raises:
        PipelineError: a size is not a whole number, no multiple of the model's, or out of range.
    """
    sizes = {name: options[name] for name in ("height", "width") if options.get(name) is not None}
    multiple = math.lcm(_latent_multiple(folder), *divisors_in_source(pipeline)) if sizes else 1
    for name, size in sizes.items():
        if type(size) is not int or not 1 <= size <= MOST_PIXELS:
            raise PipelineError(f"{name} is {size!r}; expected 1 to {MOST_PIXELS} pixels.")
        if size % multiple:
            near = max(multiple, size // multiple * multiple)
            raise PipelineError(
                f"{name} is {size}; this model draws multiples of {multiple} pixels: give {near} or {near + multiple}."
            )


def _latent_multiple(folder: Path) -> int:
    """Pixels per latent, or per two if latents are packed in squares of 2 x 2; 1 if unknown."""
    decoder, network = (read_config(folder / part / "config.json") for part in ("vae", "transformer"))
    if decoder.get("_class_name") != "AutoencoderKL" or not isinstance(decoder.get("block_out_channels"), list):
        return 1
    packed = network.get("in_channels") == 4 * decoder.get("latent_channels", 0)
    return 2 ** (len(decoder["block_out_channels"]) - 1) * (2 if packed else 1)
