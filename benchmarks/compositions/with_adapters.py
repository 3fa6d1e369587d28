"""LoRA, IP-adapters; ControlNet, image to image and inpainting are pipelines of the tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.compositions.composed import Composed, Composition

AREA = "Adapters and tasks"
DIT_AND_UNET = ("flux", "sdxl")
RANK = 4
IMAGE_TOKENS = 4


def _random(*shape: int, generator: torch.Generator) -> Tensor:
    """Values of a size that keeps activations near one."""
    return torch.randn(shape, generator=generator) * shape[-1] ** -0.5


def lora_weights(built: Composed, seed: int) -> dict[str, Tensor]:
    """A LoRA on the attention layers of the denoiser, as a pipeline's loader takes it."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for path, layer in built.model.named_modules():
        name = path.removesuffix(".base_layer")
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in ("to_q", "to_k", "to_v"):
            prefix = f"{built.denoiser}.{name}"
            weights[f"{prefix}.lora_A.weight"] = _random(RANK, layer.in_features, generator=generator)
            weights[f"{prefix}.lora_B.weight"] = _random(layer.out_features, RANK, generator=generator)
    return weights


def lora(built: Composed) -> None:
    """One adapter."""
    built.pipe.load_lora_weights(lora_weights(built, 1), adapter_name="first")


def two_loras(built: Composed) -> None:
    """Two adapters, one of them with a negative weight."""
    lora(built)
    built.pipe.load_lora_weights(lora_weights(built, 2), adapter_name="second")
    built.pipe.set_adapters(["first", "second"], [0.7, -0.4])


def fused_lora(built: Composed) -> None:
    """An adapter that is added to the weights."""
    lora(built)
    built.pipe.fuse_lora(lora_scale=0.6)


def lora_scaled_in_the_call(built: Composed) -> None:
    """An adapter whose strength is an argument of the call."""
    lora(built)
    name = "cross_attention_kwargs" if built.denoiser == "unet" else "joint_attention_kwargs"
    built.edits.append(lambda inputs: {**inputs, name: {"scale": 0.5}})


def _ip_weights(built: Composed) -> dict[str, dict[str, Tensor]]:
    """Projections of an image embedding, and of its tokens in each cross-attention."""
    generator, model = torch.Generator().manual_seed(3), built.model
    unet = built.denoiser == "unet"
    text = model.config.cross_attention_dim if unet else model.config.joint_attention_dim
    attention: dict[str, Tensor] = {}
    number = 1 if unet else 0
    for name in model.attn_processors:
        if name.endswith("attn1.processor") or name.startswith("single_transformer_blocks"):
            continue
        size = model.get_submodule(f"{name.removesuffix('.processor')}.to_q").out_features if unet else model.inner_dim
        for part in ("to_k_ip", "to_v_ip"):
            attention[f"{number}.{part}.weight"] = _random(size, text, generator=generator)
            if not unet:
                attention[f"{number}.{part}.bias"] = torch.zeros(size)
        number += 2 if unet else 1
    projection = {
        "proj.weight": _random(IMAGE_TOKENS * text, text, generator=generator),
        "proj.bias": torch.zeros(IMAGE_TOKENS * text),
        "norm.weight": torch.ones(text),
        "norm.bias": torch.zeros(text),
    }
    return {"image_proj": projection, "ip_adapter": attention}


def ip_adapter(built: Composed) -> None:
    """An IP-adapter, with the embedding of a picture."""
    weights = _ip_weights(built)
    width = weights["ip_adapter"]["1.to_k_ip.weight" if built.denoiser == "unet" else "0.to_k_ip.weight"].shape[1]
    built.model._load_ip_adapter_weights([weights])
    generator = torch.Generator().manual_seed(4)
    if built.denoiser == "unet":
        built.give(ip_adapter_image_embeds=[torch.randn(2, 1, width, generator=generator)])
        return
    shown, hidden = (torch.randn(1, 1, width, generator=generator) for _ in range(2))
    built.give(ip_adapter_image_embeds=[shown], negative_ip_adapter_image_embeds=[hidden])


def nothing(_: Any) -> None:
    """The pipeline itself is the composition."""


def _task(name: str, *pipelines: str) -> Composition:
    return Composition(AREA, name, pipelines, nothing)


COMPOSITIONS = (
    Composition(AREA, "LoRA", DIT_AND_UNET, lora, late=True),
    Composition(AREA, "two LoRAs with weights", DIT_AND_UNET, two_loras, late=True),
    Composition(AREA, "LoRA, fused", DIT_AND_UNET, fused_lora, late=True),
    Composition(AREA, "LoRA, scaled in the call", DIT_AND_UNET, lora_scaled_in_the_call, late=True),
    Composition(AREA, "IP-adapter", DIT_AND_UNET, ip_adapter, late=True),
    _task("ControlNet", "flux_controlnet", "sd3_controlnet", "sdxl_controlnet"),
    _task("image to image", "flux_img2img", "sdxl_img2img"),
    _task("inpainting", "flux_inpaint", "sdxl_inpaint"),
)
