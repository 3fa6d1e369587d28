"""Memory and layout: offload of every kind, tiling and slicing, other orders and layers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import accelerate
import torch
from tests.robustness.test_offload import as_parameters

from benchmarks.compositions.composed import Composed, Composition

AREA = "Memory and layout"
DIT_AND_UNET = ("flux", "stable_diffusion")
WITH_TEXT = ("flux", "sdxl")
CPU = torch.device("cpu")


def model_offload(built: Composed) -> None:
    """Whole models, in their order."""
    built.pipe.enable_model_cpu_offload(device="cpu")


def sequential_offload(built: Composed) -> None:
    """Layer by layer; accelerate fails on plain tensors that are on the compute device."""
    whole = accelerate.cpu_offload

    def of_parameters(model: Any, device: Any, **options: Any) -> Any:
        return whole(model, device.type, state_dict=as_parameters(model), **options)

    accelerate.cpu_offload = of_parameters
    try:
        built.pipe.enable_sequential_cpu_offload(device="cpu")
    finally:
        accelerate.cpu_offload = whole


def group_offload(kind: str, **more: Any) -> Callable[[Composed], None]:
    """Groups of layers or of blocks."""
    return lambda built: built.model.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type=kind, **more
    )


def group_offload_to_disk(built: Composed) -> None:
    """Groups of blocks, in files."""
    folder = tempfile.mkdtemp()
    group_offload("block_level", num_blocks_per_group=1, offload_to_disk_path=folder)(built)


def tiling(built: Composed) -> None:
    """Decoded in tiles."""
    built.give(output_type="pt")
    vae = built.pipe.vae
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = 32, 16


def slicing(built: Composed) -> None:
    """Two pictures, decoded one by one."""
    built.give(output_type="pt", num_images_per_prompt=2)
    built.pipe.vae.enable_slicing()


def fused_projections(built: Composed) -> None:
    """Queries, keys and values by one layer."""
    built.model.fuse_qkv_projections()


def attention_slicing(built: Composed) -> None:
    """Heads one by one."""
    built.pipe.enable_attention_slicing(1)


def free_u(built: Composed) -> None:
    """Skip connections, scaled in the frequency domain."""
    built.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


def channels_last(built: Composed) -> None:
    """Another order of the weights in memory."""
    built.model.to(memory_format=torch.channels_last)


COMPOSITIONS = (
    Composition(AREA, "model offload", DIT_AND_UNET, model_offload, late=True),
    Composition(AREA, "sequential offload", DIT_AND_UNET, sequential_offload, late=True),
    Composition(AREA, "group offload, leaves", DIT_AND_UNET, group_offload("leaf_level"), late=True),
    Composition(
        AREA, "group offload, blocks", DIT_AND_UNET, group_offload("block_level", num_blocks_per_group=1), late=True
    ),
    Composition(AREA, "group offload, blocks, to disk", DIT_AND_UNET, group_offload_to_disk, late=True),
    Composition(AREA, "VAE tiling", WITH_TEXT, tiling, with_text=True, late=True),
    Composition(AREA, "VAE slicing", WITH_TEXT, slicing, with_text=True, late=True),
    Composition(AREA, "attention slicing", ("sdxl", "stable_diffusion"), attention_slicing, late=True),
    Composition(AREA, "channels last", DIT_AND_UNET, channels_last, late=True),
    Composition(AREA, "fused projections", DIT_AND_UNET, fused_projections, late=True),
    Composition(AREA, "FreeU", ("sdxl", "stable_diffusion"), free_u, late=True),
)
