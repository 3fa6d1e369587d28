"""Parts of the tiny pipelines: prompt embeddings, pictures, autoencoders, random weights."""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

WIDTH = 32  # of every prompt embedding
TOKENS = 6
PROMPT: ContextVar[int] = ContextVar("prompt", default=0)  # added to the seed of every embedding


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter non-zero random values of a size that keeps activations near one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * noise)
    return module.eval().requires_grad_(False)


def assemble(pipeline: type, **components: Any) -> Any:
    """A pipeline without a progress bar; components that are not given are ``None``."""
    parameters = list(inspect.signature(pipeline.__init__).parameters.values())[1:]
    absent = {parameter.name: None for parameter in parameters if parameter.default is inspect.Parameter.empty}
    pipe = pipeline(**{**absent, **components})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeds(*shape: int, seed: int = 7) -> Tensor:
    """Random embeddings in place of a text encoder's; others per prompt for :class:`Prompted`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + PROMPT.get()))


def pair(batch: int, width: int = WIDTH) -> dict[str, Tensor]:
    """Embeddings of a prompt and of a negative prompt."""
    return {
        "prompt_embeds": embeds(batch, TOKENS, width),
        "negative_prompt_embeds": embeds(batch, TOKENS, width, seed=8),
    }


def pooled(batch: int) -> dict[str, Tensor]:
    """Pooled embeddings of both prompts."""
    return {
        "pooled_prompt_embeds": embeds(batch, WIDTH, seed=9),
        "negative_pooled_prompt_embeds": embeds(batch, WIDTH, seed=10),
    }


def masks(batch: int, name: str = "prompt_attention_mask", dtype: torch.dtype = torch.long) -> dict[str, Tensor]:
    """Attention masks that hide nothing."""
    ones = torch.ones(batch, TOKENS, dtype=dtype)
    return {name: ones, f"negative_{name}": ones.clone()}


def square(size: int) -> dict[str, Any]:
    """Height, width, and no decoding."""
    return {"height": size, "width": size, "output_type": "latent"}


def picture(size: int) -> Tensor:
    """A picture of shape (1, 3, size, size), values in [0, 1]."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(11))


def pil_picture() -> Any:
    """The picture of 32 x 32 pixels as a PIL image."""
    from PIL import Image

    return Image.fromarray((255 * picture(32)[0].permute(1, 2, 0).numpy()).astype("uint8"))


def hole(size: int) -> Tensor:
    """An inpainting mask of the upper half."""
    mask = torch.zeros(1, 1, size, size)
    mask[:, :, : size // 2] = 1.0
    return mask


def tiny_vae(latent_channels: int = 4) -> nn.Module:
    """An autoencoder that halves the size once."""
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        layers_per_block=1,
        shift_factor=0.1,
    )
    return randomise(vae, 3)


def tiny_wan_vae() -> Any:
    """Wan's autoencoder: four frames to one and eight pixels to one."""
    statistics = {"latents_mean": [0.1] * 4, "latents_std": [1.5] * 4}
    return randomise(
        diffusers.AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **statistics), 3
    )


class StandIn:
    """In place of an autoencoder whose attributes alone are read."""

    dtype = torch.float32

    def __init__(self, config: dict[str, Any], **attributes: Any) -> None:
        self.config = SimpleNamespace(**config)
        for name, value in attributes.items():
            setattr(self, name, value)


class StandInEncoder(StandIn):
    """In place of Qwen-Image's autoencoder: the means of patches, in as many channels as asked.

    The pipelines scale every picture to a million pixels; an encoder with random weights would take seconds.
    """

    def __init__(self, channels: int, halvings: int) -> None:
        config = {"z_dim": channels, "latents_mean": [0.1] * channels, "latents_std": [1.5] * channels}
        super().__init__(config, z_dim=channels, temperal_downsample=[False] * halvings)

    def encode(self, pixels: Tensor) -> Any:
        """Shape (B, 3, 1, H, W) to latents of shape (B, C, 1, H / 2^n, W / 2^n)."""
        patch = 2 ** len(self.temperal_downsample)
        means = nn.functional.avg_pool3d(pixels, (1, patch, patch))
        channels = torch.arange(1, self.config.z_dim + 1).view(1, -1, 1, 1, 1)
        return SimpleNamespace(latents=means.mean(1, keepdim=True) * channels)
