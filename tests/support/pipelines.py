"""Tiny pipelines with random weights, made from configuration: no download, fast steps.

Every parameter is non-zero (a zero-initialised gate would hide an error), and prompt embeddings replace text encoders.
``build("flux")`` gives a :class:`TinyPipeline`; ``NAMES`` lists the rows of the tables.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from tests.support.image_table import FURTHER, IMAGES
from tests.support.newest_table import NEWEST
from tests.support.parts import (
    PROMPT,
    TOKENS,
    WIDTH,
    StandIn,
    assemble,
    embeds,
    masks,
    pair,
    picture,
    pooled,
    randomise,
    square,
    tiny_vae,
)
from tests.support.video_table import VIDEOS

__all__ = [
    "NAMES",
    "ROWS",
    "TOKENS",
    "WIDTH",
    "Prompted",
    "StandIn",
    "TinyPipeline",
    "assemble",
    "build",
    "embeds",
    "masks",
    "pair",
    "picture",
    "pooled",
    "randomise",
    "square",
    "tiny_vae",
]
NAMES = (*IMAGES, *VIDEOS)
ROWS = {**IMAGES, **VIDEOS, **FURTHER, **NEWEST}


@dataclass
class TinyPipeline:
    """A pipeline, how to run it, and what a step of it looks like.

    Attributes:
        branches: the names of a step's branches, without the denoiser's.
        denoisers: the names of the modules that are called at each step.
        size: the height and width in pixels that a run has unless it says otherwise.
        strength: of a run that begins from a picture: the share of the steps that it takes.
        fixed: what the pipeline cannot change: ``"batch"``, ``"size"``.
        heads: how many hidden states a denoiser's blocks hand on: LTX-2 has one for the video and one for the audio.
    """

    name: str
    pipe: Any
    call: Callable[..., Any]
    branches: tuple[str, ...]
    size: int
    denoisers: tuple[str, ...] = ("transformer",)
    strength: float | None = None
    fixed: tuple[str, ...] = ()
    heads: int = 1

    def run(self, steps: int = 8, seed: int = 0, batch: int = 1, size: int | None = None, **options: Any) -> Tensor:
        """The final latents (DiT: the decoded images)."""
        given = {"num_inference_steps": steps, "generator": torch.Generator().manual_seed(seed), **options}
        with torch.no_grad():
            output = self.call(self.pipe, batch, size or self.size, **given)
        return torch.as_tensor(output)

    def first_step(self, steps: int) -> int:
        """Where a run of ``steps`` begins on the scheduler's grid."""
        return 0 if self.strength is None else int(steps - min(steps * self.strength, steps))

    @property
    def modules(self) -> list[nn.Module]:
        """The denoisers."""
        return [getattr(self.pipe, name) for name in self.denoisers]


class Prompted:
    """A tiny pipeline that takes a prompt as the whole ones do: each prompt has its own embedding."""

    def __init__(self, tiny: TinyPipeline) -> None:
        self.tiny = tiny

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tiny.pipe, name)

    def __call__(
        self, prompt: str, num_inference_steps: int = 8, generator: Any = None, output_type: str = "latent"
    ) -> Any:
        """The final sample; every output of the tiny pipelines is latent."""
        token = PROMPT.set(zlib.crc32(prompt.encode()))
        try:
            given = {"num_inference_steps": num_inference_steps, "generator": generator}
            with torch.no_grad():
                return SimpleNamespace(
                    images=torch.as_tensor(self.tiny.call(self.tiny.pipe, 1, self.tiny.size, **given))
                )
        finally:
            PROMPT.reset(token)


def build(name: str) -> TinyPipeline:
    """The tiny pipeline called ``name``."""
    row = ROWS[name]
    model = randomise(row.model())
    key = "unet" if isinstance(model, diffusers.UNet2DConditionModel) else "transformer"
    components = {part: made() if callable(made) else made for part, made in row.components.items()}
    pipe = assemble(getattr(diffusers, row.kind), scheduler=row.scheduler(), **{key: model}, **components)
    for attribute, value in row.attributes.items():
        setattr(pipe, attribute, value)
    return TinyPipeline(name, pipe, row.call, row.branches, row.size, **{"denoisers": (key,), **row.more})
