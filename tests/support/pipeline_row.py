"""Rows of the tables of tiny pipelines, and the inputs that they are called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tests.support.parts import TOKENS, WIDTH, embeds, hole, masks, pair, picture, pooled, square

ONE, TWO, JOINT = ("cond",), ("cond", "uncond"), ("cond_uncond",)
UNNAMED, UNNAMED_TWO = ("call 1",), ("call 1", "call 2")
GUIDER = ("pred_cond", "pred_uncond")
STRENGTH = 0.5
Inputs = Callable[[int, int], Mapping[str, Any]] | Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """How one tiny pipeline is made and called.

    Attributes:
        kind: the pipeline's class in diffusers.
        model: makes its denoiser.
        scheduler: makes its scheduler.
        inputs: arguments of a call, or functions of batch and size that give them; later ones win.
        size: height and width in pixels.
        branches: the names of a step's branches.
        components: further components, or functions that make them.
        output: reads the latents off what the pipeline returns.
        more: attributes of :class:`tests.support.pipelines.TinyPipeline` that are not the default.
        attributes: attributes to set on the pipeline.
        sized: whether the call takes height and width.
        seed: seed of the global generator before a call.
    """

    kind: str
    model: Callable[[], Any]
    scheduler: Callable[[], Any]
    inputs: tuple[Inputs, ...]
    size: int
    branches: tuple[str, ...] = UNNAMED
    components: Mapping[str, Any] = field(default_factory=dict)
    output: Callable[[Any], Any] = lambda result: result.images
    more: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    sized: bool = True
    seed: int | None = None

    def arguments(self, batch: int, size: int) -> dict[str, Any]:
        """Arguments of a call, without steps and generator."""
        arguments: dict[str, Any] = {}
        for inputs in self.inputs:
            arguments |= inputs(batch, size) if callable(inputs) else inputs
        return {**arguments, **(square(size) if self.sized else {})}

    def call(self, pipe: Any, batch: int, size: int, **options: Any) -> Any:
        """Run the pipeline."""
        if self.seed is not None:
            torch.manual_seed(self.seed)
        return self.output(pipe(**self.arguments(batch, size), **options))

    def begun(self, kind: str, *inputs: Inputs, **changes: Any) -> Row:
        """The row of a pipeline that begins from a picture: the same network, 16 pixels, a share of the steps."""
        more = {**self.more, "strength": STRENGTH}
        given = (*self.inputs, *inputs, {"strength": STRENGTH})
        return replace(self, kind=kind, inputs=given, size=16, more=more, **changes)


def text(batch: int, _: int) -> dict[str, Any]:
    """Embeddings of both prompts."""
    return pair(batch)


def text_pooled(batch: int, _: int) -> dict[str, Any]:
    """Embeddings of both prompts, and pooled ones."""
    return {**pair(batch), **pooled(batch)}


def text_masked(batch: int, _: int, name: str = "prompt_attention_mask", dtype: Any = torch.long) -> dict[str, Any]:
    """Embeddings of both prompts, and their masks."""
    return {**pair(batch), **masks(batch, name, dtype)}


def text_twice(batch: int, size: int) -> dict[str, Any]:
    """Embeddings and masks for each of two text encoders."""
    once = text_masked(batch, size, "prompt_embeds_mask", torch.int64)
    return {**once, **{f"{name}_2": value for name, value in once.items()}}


def text_lists(batch: int, _: int) -> dict[str, Any]:
    """Embeddings of both prompts as lists."""
    return {name: list(value) for name, value in pair(batch).items()}


def text_flux(batch: int, _: int) -> dict[str, Any]:
    """Embeddings of one prompt, and pooled ones."""
    return {"prompt_embeds": embeds(batch, TOKENS, WIDTH), "pooled_prompt_embeds": embeds(batch, WIDTH)}


def text_positive(batch: int, size: int) -> dict[str, Any]:
    """Embeddings and mask of one prompt."""
    both = text_masked(batch, size, "prompt_embeds_mask")
    return {name: value for name, value in both.items() if "negative" not in name}


def text_hidream(batch: int, _: int) -> dict[str, Any]:
    """HiDream's embeddings: pooled ones, T5's and one per Llama layer."""
    given: dict[str, Any] = pooled(batch)
    for prefix, seed in (("", 7), ("negative_", 8)):
        given[f"{prefix}prompt_embeds_t5"] = embeds(batch, TOKENS, WIDTH, seed=seed)
        given[f"{prefix}prompt_embeds_llama3"] = embeds(3, batch, TOKENS, WIDTH, seed=seed)
    return given


def text_kandinsky(batch: int, _: int) -> dict[str, Any]:
    """Kandinsky's embeddings, with the cumulated lengths of the prompts."""
    given: dict[str, Any] = {}
    for prefix, seed in (("", 7), ("negative_", 8)):
        given[f"{prefix}prompt_embeds_qwen"] = embeds(batch, TOKENS, WIDTH, seed=seed)
        given[f"{prefix}prompt_embeds_clip"] = embeds(batch, WIDTH, seed=seed)
        given[f"{prefix}prompt_cu_seqlens"] = torch.arange(batch + 1, dtype=torch.int32) * TOKENS
    return given


def shown(name: str = "image") -> Inputs:
    """A picture under a name."""
    return lambda _, size: {name: picture(size)}


def inpainted(_: int, size: int) -> dict[str, Any]:
    """A picture and a mask."""
    return {"image": picture(size), "mask_image": hole(size)}
