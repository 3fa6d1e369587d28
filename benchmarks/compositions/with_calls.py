"""Arguments of the call: batches, lists, several pictures per prompt, callbacks, interruptions."""

from __future__ import annotations

from typing import Any

import torch
from tests.support.pipelines import ROWS, embeds

from benchmarks.compositions.composed import PROMPT, BrokenOff, Composed, Composition, Inputs

AREA = "Calls"
DIT_AND_UNET = ("flux", "sdxl")
AFTER = 4  # the callback acts after this step: at the next one, a forecast is planned


def batch(built: Composed) -> None:
    """Three prompts' embeddings."""
    row = ROWS[built.name]
    built.edits.append(lambda inputs: {**inputs, **row.arguments(3, row.size), "output_type": "latent"})


def generators(built: Composed) -> None:
    """A generator per picture."""
    batch(built)
    seeds = built.edits

    def separate(inputs: Inputs) -> Inputs:
        first = inputs["generator"].initial_seed()
        return {**inputs, "generator": [torch.Generator().manual_seed(first + each) for each in range(3)]}

    seeds.append(separate)


def prompts(built: Composed) -> None:
    """A list of prompts."""
    built.give(prompt=[PROMPT, "two dogs on a hill"])


def pictures(built: Composed) -> None:
    """Several pictures per prompt."""
    built.give(num_images_per_prompt=2)


def both(built: Composed) -> None:
    """Several pictures for each of several prompts."""
    prompts(built)
    pictures(built)


def true_guidance(built: Composed) -> None:
    """Guidance by a second call per step."""
    row = ROWS[built.name]
    arguments = row.arguments(1, row.size)
    positive = {} if "negative_prompt_embeds" in arguments else arguments
    other = {f"negative_{name}": embeds(*value.shape, seed=13) for name, value in positive.items() if "embeds" in name}
    built.give(true_cfg_scale=3.0, **other)


def rescaled(built: Composed) -> None:
    """Guidance whose result is rescaled."""
    built.give(guidance_rescale=0.7)


def damped(built: Composed) -> None:
    """Latents that a callback changes."""

    def callback(_: Any, __: int, ___: Any, kept: Inputs) -> Inputs:
        return {"latents": 0.98 * kept["latents"]}

    built.give(callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["latents"])


def other_prompt(built: Composed) -> None:
    """A callback that changes the prompt after step 4."""

    def callback(_: Any, step: int, __: Any, kept: Inputs) -> Inputs:
        if step != AFTER:
            return kept
        return {"prompt_embeds": embeds(*kept["prompt_embeds"].shape, seed=12)}

    built.give(callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def guidance_ends(built: Composed) -> None:
    """A callback that ends guidance after step 4, as diffusers' guide shows it: the batch is halved."""
    embedded = ("prompt_embeds", "pooled_prompt_embeds", "add_text_embeds", "add_time_ids")
    names = [name for name in embedded if name in built.pipe._callback_tensor_inputs]

    def callback(pipe: Any, step: int, _: Any, kept: Inputs) -> Inputs:
        if step != AFTER:
            return kept
        pipe._guidance_scale = 0.0
        return {name: value.chunk(2)[-1] for name, value in kept.items()}

    built.give(callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)


def interrupted(built: Composed) -> None:
    """A callback that sets the pipeline's flag after step 4."""

    def callback(pipe: Any, step: int, _: Any, kept: Inputs) -> Inputs:
        pipe._interrupt = step >= AFTER
        return kept

    built.give(callback_on_step_end=callback)


def nothing(_: Any) -> None:
    """The calls themselves differ."""


COMPOSITIONS = (
    Composition(AREA, "batch of 3", DIT_AND_UNET, batch, late=True),
    Composition(AREA, "batch of 3, a list of generators", DIT_AND_UNET, generators, late=True),
    Composition(AREA, "list of prompts", DIT_AND_UNET, prompts, with_text=True, late=True),
    Composition(AREA, "two pictures per prompt", DIT_AND_UNET, pictures, with_text=True, late=True),
    Composition(AREA, "two pictures for each of two prompts", DIT_AND_UNET, both, with_text=True, late=True),
    Composition(AREA, "guidance by a second call", ("flux", "qwen_image"), true_guidance, late=True),
    Composition(AREA, "guidance, rescaled", ("sdxl", "stable_diffusion"), rescaled, late=True),
    Composition(AREA, "callback that changes the latents", DIT_AND_UNET, damped, late=True),
    Composition(AREA, "callback that changes the prompt", DIT_AND_UNET, other_prompt, late=True),
    Composition(AREA, "callback that ends guidance", ("sd3", "sdxl"), guidance_ends, late=True),
    Composition(AREA, "interrupted by the pipeline's flag", DIT_AND_UNET, interrupted, late=True),
    Composition(AREA, "broken off by an exception", DIT_AND_UNET, nothing, built=BrokenOff),
)
