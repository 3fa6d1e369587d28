"""Several compositions together."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.compositions import with_adapters, with_calls, with_offload, with_precision
from benchmarks.compositions.composed import Composed, Composition

AREA = "Together"
DIT_AND_UNET = ("flux", "sdxl")


def _all(*changes: Callable[[Composed], None]) -> Callable[[Composed], None]:
    def change(built: Composed) -> None:
        for each in changes:
            each(built)

    return change


BFLOAT16 = with_precision.in_dtype(torch.bfloat16)
BLOCKS = with_offload.group_offload("block_level", num_blocks_per_group=1)

COMPOSITIONS = (
    Composition(
        AREA,
        "bfloat16, LoRA, model offload, VAE tiling",
        DIT_AND_UNET,
        _all(BFLOAT16, with_adapters.lora, with_offload.tiling, with_offload.model_offload),
        with_text=True,
        late=True,
    ),
    Composition(
        AREA,
        "LoRA, IP-adapter, batch of 3",
        DIT_AND_UNET,
        _all(with_adapters.lora, with_adapters.ip_adapter, with_calls.batch),
        late=True,
    ),
    Composition(
        AREA,
        "float8 weights, group offload, two LoRAs",
        DIT_AND_UNET,
        _all(with_adapters.two_loras, with_precision.layerwise, BLOCKS),
        late=True,
    ),
    Composition(AREA, "LoRA on nf4 weights", DIT_AND_UNET, _all(with_precision.nf4, with_adapters.lora), late=True),
    Composition(
        AREA,
        "ControlNet, LoRA, bfloat16",
        ("flux_controlnet", "sdxl_controlnet"),
        _all(BFLOAT16, with_adapters.lora),
        late=True,
    ),
    Composition(
        AREA,
        "inpainting, two LoRAs, group offload",
        ("flux_inpaint", "sdxl_inpaint"),
        _all(with_adapters.two_loras, BLOCKS),
        late=True,
    ),
)
