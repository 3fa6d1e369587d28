"""Attention maps that a pipeline reads: where a network keeps them, every step is computed."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from tests.support.attaching import STEPS, policy
from tests.support.pipelines import build


class Slotted:
    __slots__ = ("maps",)

    def __init__(self) -> None:
        self.maps: Any = None


class Storing:
    """Attention processor that keeps its input, for the pipeline to read."""

    def __init__(self, inner: Any, kept: str) -> None:
        super().__init__()
        self.inner, self.kept = inner, kept
        self.store = SimpleNamespace(step_store={"mid": [None]}, queue=deque(maxlen=1), slotted=Slotted())

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.kept == "in a store":
            self.store.step_store["mid"][0] = hidden_states
        elif self.kept == "in a queue":
            self.store.queue.append(hidden_states)
        elif self.kept == "in a slot, as an array":
            self.store.slotted.maps = hidden_states.numpy()
        else:
            (attn if self.kept == "on the module" else self).attention_probs = hidden_states
        return self.inner(attn, hidden_states, *args, **kwargs)


class StoringModule(Storing, nn.Module):
    """A storing processor that is a module, with a weight."""

    def __init__(self, inner: Any, kept: str) -> None:
        super().__init__(inner, kept)
        self.weight = nn.Parameter(torch.ones(1))


def storing(inner: Any, kept: str) -> Any:
    """An attention processor that keeps its input."""
    maps: dict[str, Tensor] = {}

    def process(attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        maps["mid"] = hidden_states
        return inner(attn, hidden_states, *args, **kwargs)

    if kept == "in a variable":
        return process
    return (StoringModule if kept == "a module" else Storing)(inner, kept)


@pytest.mark.cell("runs", "attention processors that keep what the pipeline reads", "fails open")
@pytest.mark.parametrize(
    "kept",
    [
        "on itself",
        "in a store",
        "in a queue",
        "in a slot, as an array",
        "on the module",
        "a module",
        "in a variable",
    ],
)
def test_a_processor_that_stores_ends_the_forecasts(kept: str) -> None:
    pipe = build("stable_diffusion")
    attention = next(m for name, m in pipe.pipe.unet.named_modules() if name.endswith("attn1"))
    inner = attention.processor
    del attention.processor
    attention.processor = storing(inner, kept)
    with fs.accelerate(pipe.pipe, policy()) as handle, pytest.warns(fs.ForeseerWarning, match="keeps what it computes"):
        for _ in range(2):  # the second run begins with what the first has stored
            pipe.run()
            assert handle.record.forecast == {}


@pytest.mark.cell("runs", "self-attention guidance (`StableDiffusionSAGPipeline`)", "fails open")
@pytest.mark.parametrize("site", ["output", "last_block"])
def test_self_attention_guidance_reads_no_stale_map(site: str) -> None:
    parts = build("stable_diffusion").pipe.components
    pipe = diffusers.StableDiffusionSAGPipeline(**{**parts, "image_encoder": None}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    embeds = torch.randn(1, 7, pipe.unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))

    def draw() -> Tensor:
        options = {"prompt_embeds": embeds, "negative_prompt_embeds": 0.5 * embeds, "height": 64, "width": 64}
        seeded = torch.Generator().manual_seed(0)
        return pipe(**options, num_inference_steps=STEPS, generator=seeded, output_type="latent").images

    reference = draw()
    with fs.accelerate(pipe, policy(site)) as handle, pytest.warns(fs.ForeseerWarning, match="keeps what it computes"):
        assert torch.allclose(draw(), reference, rtol=1e-4, atol=1e-4)
    assert handle.record.forecast == {}
