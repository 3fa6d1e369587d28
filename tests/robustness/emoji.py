"""The bundled pipeline, as the tests of hardening call it: real weights, real prompts, few steps."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from foreseer.pipelines import load_pipeline

STEPS = 6
PANDA, ROCKET, PIZZA = "a panda on a red background", "a rocket", "a slice of pizza on a green background"


@cache
def emoji() -> Any:
    """The pipeline, loaded once; tests leave it as they found it."""
    pipe, _ = load_pipeline("emoji", "float32", "cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompt: str | list[str], seed: int = 0, steps: int = STEPS, **options: Any) -> Tensor:
    """Its pictures of ``prompt``, shape (batch, 3, 64, 64)."""
    given = {"height": 64, "width": 64, "max_sequence_length": 16, "output_type": "pt", **options}
    given.setdefault("generator", torch.Generator().manual_seed(seed))
    return pipe(prompt, num_inference_steps=steps, **given).images
