"""Tiny random models in the real ComfyUI, whose checkout COMFYUI_PATH names."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COMFYUI_PATH = os.environ.get("COMFYUI_PATH", "")


@cache
def comfy() -> Any:
    """The package, set up for a CPU."""
    sys.path.insert(0, COMFYUI_PATH)
    arguments, sys.argv = sys.argv, ["comfyui", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.model_patcher
        import comfy.patcher_extension
        import comfy.sample
        import comfy.samplers
        import comfy.supported_models
    finally:
        sys.argv = arguments
    return sys.modules["comfy"]


def version() -> str:
    """The checkout's version."""
    names: dict[str, str] = {}
    exec((Path(COMFYUI_PATH) / "comfyui_version.py").read_text(), names)
    return names["__version__"]


SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "out_channels": 16,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": 64,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 128}},
    "num_patches": 4096,
    "pos_embed_max_size": 64,
    "pos_embed_scaling_factor": None,
    "x_block_self_attn_layers": [],
    "context_size": 32,
}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 128,
    "out_dim": 16,
    "num_heads": 1,
    "ffn_dim": 256,
    "num_layers": 2,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "in_dim": 16,
}
SD15 = {
    "use_checkpoint": False,
    "image_size": 32,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "in_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1],
    "transformer_depth": [1],
    "channel_mult": [1],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
    "context_dim": 32,
    "num_heads": 4,
    "transformer_depth_output": [1, 1],
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
TEXT_WIDTHS = {"SD3": 32, "WAN21_T2V": 4096, "SD15": 32}
FAMILIES = {"SD3": (SD3, (1, 16, 8, 8)), "WAN21_T2V": (WAN, (1, 16, 3, 8, 8)), "SD15": (SD15, (1, 4, 8, 8))}


# Families that loaders recognise by their weights, with what must not be smaller for it, and the text's width.
SERVED: dict[str, tuple[dict[str, int], int]] = {
    "SD3": ({}, 32),
    "WAN21_T2V": ({}, 4096),
    "SD15": ({"model_channels": 320, "context_dim": 768}, 768),
}


@cache
def model(family: str, served: bool = False) -> Any:
    """A patcher around a tiny model with fixed random weights."""
    package = comfy()
    config = {**FAMILIES[family][0], **(SERVED[family][0] if served else {})}
    description = getattr(package.supported_models, family)(config)
    description.set_inference_dtype(torch.float32, None)
    network = description.get_model({}, "", device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in sorted(network.diffusion_model.state_dict().items()):
            if weight.is_floating_point():
                wide = weight.ndim > 1
                scale = 0.8 / weight[0].numel() ** 0.5 if wide else 0.05
                values = scale * torch.randn(weight.shape, generator=generator)
                weight.copy_(values if wide or "norm" not in name else 1.0 + values)
    network.diffusion_model.eval()
    device = torch.device("cpu")
    return package.model_patcher.ModelPatcher(network, load_device=device, offload_device=device)


def conditioning(seed: int, family: str = "SD3", **options: Any) -> list[Any]:
    """Random embeddings in place of a text encoder's."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(1, 7, TEXT_WIDTHS[family], generator=generator)
    pooled = {"pooled_output": torch.randn(1, 64, generator=generator)} if family == "SD3" else {}
    return [[embeddings, {**pooled, **options}]]


class Counter:
    """Counts the calls of a model's network from outside."""

    def __init__(self, patcher: Any) -> None:
        self.calls = 0
        self._handle = patcher.model.diffusion_model.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()


def sample(patcher: Any, family: str, sampler: str = "euler", steps: int = 8, seed: int = 0, **options: Any) -> Tensor:
    """One run of KSampler's sampling; cfg 1 leaves one call of the network per prediction."""
    package = comfy()
    _, shape = FAMILIES[family]
    latent = options.pop("latent_image", torch.zeros(shape))
    noise = package.sample.prepare_noise(latent, seed)
    torch.manual_seed(seed)
    return package.sample.sample(
        patcher,
        noise,
        steps,
        options.pop("cfg", 1.0),
        sampler,
        options.pop("scheduler", "simple"),
        options.pop("positive", conditioning(1, family)),
        options.pop("negative", conditioning(2, family)),
        latent,
        seed=seed,
        disable_pbar=True,
        **options,
    )
