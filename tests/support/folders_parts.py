"""Parts of the folders that several pipelines have: networks and autoencoders with random weights."""

from __future__ import annotations

from typing import Any

import diffusers
from torch import nn

from tests.support.pipelines import build, randomise

Parts = dict[str, Any]

STATISTICS: Parts = {"latents_mean": [0.1] * 4, "latents_std": [1.5] * 4}


def one(pair: tuple[Any, nn.Module], suffix: str = "") -> Parts:
    """A tokenizer and its encoder under the names that pipelines have for them."""
    return {f"tokenizer{suffix}": pair[0], f"text_encoder{suffix}": pair[1]}


def remade(name: str, **options: Any) -> nn.Module:
    """A tiny pipeline's denoiser with some options changed."""
    model: Any = build(name).modules[0]
    config = {**model.config, "_use_default_values": [], **options}  # those listed there would drop an option
    return randomise(type(model).from_config(config))


def network(kind: str, **options: Any) -> nn.Module:
    """One of diffusers' networks, with random weights."""
    return randomise(getattr(diffusers, kind)(**options), 3)


def flux2_vae() -> nn.Module:
    """An autoencoder whose latents are normalised in patches."""
    return network(
        "AutoencoderKLFlux2",
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    )


def picture_vae(width: int = 4, **options: Any) -> nn.Module:
    """An autoencoder of pictures, eight pixels to one."""
    blocks = 4
    return network(
        "AutoencoderKL",
        block_out_channels=(width,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        norm_num_groups=2,
        layers_per_block=1,
        **options,
    )


def hunyuan_vae() -> nn.Module:
    """An autoencoder of four frames to one and eight pixels to one."""
    return network(
        "AutoencoderKLHunyuanVideo",
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )


def qwen_vae(halvings: int, width: int = 4, **options: Any) -> nn.Module:
    """An autoencoder of pictures as single frames."""
    sizes = {"base_dim": width, "z_dim": 4, "dim_mult": [1] * (halvings + 1), "num_res_blocks": 1, **STATISTICS}
    halved = [False] + [True] * (halvings - 1)
    return network("AutoencoderKLQwenImage", temperal_downsample=halved, **{**sizes, **options})
