"""Tiny pipelines with random weights, made from configuration alone: no download, some milliseconds a step.

Every parameter is non-zero (a zero-initialised gate would hide an error), and prompt embeddings stand for text
encoders. ``build("flux")`` gives a :class:`TinyPipeline`; ``NAMES`` lists what there is.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

WIDTH = 32  # of every prompt embedding
TOKENS = 6

ONE, TWO = ("cond",), ("cond", "uncond")
UNNAMED, UNNAMED_TWO = ("call 1",), ("call 1", "call 2")


@dataclass
class TinyPipeline:
    """A pipeline, how to run it, and what a step of it looks like.

    Attributes:
        branches: the names of a step's branches, without the denoiser's.
        denoisers: the names of the modules that are called at each step.
        size: the height and width in pixels that a run has unless it says otherwise.
        strength: of a run that begins from a picture: the share of the steps that it takes.
        fixed: what the pipeline cannot change: ``"batch"``, ``"size"``.
        heads: how many hidden states a denoiser's blocks hand on: LTX-2 has one for the video and one for the audio.
    """

    name: str
    pipe: Any
    call: Callable[..., Any]
    branches: tuple[str, ...]
    size: int
    denoisers: tuple[str, ...] = ("transformer",)
    strength: float | None = None
    fixed: tuple[str, ...] = ()
    heads: int = 1

    def run(self, steps: int = 8, seed: int = 0, batch: int = 1, size: int | None = None, **options: Any) -> Tensor:
        """The final latents (DiT: the decoded images)."""
        given = {"num_inference_steps": steps, "generator": torch.Generator().manual_seed(seed), **options}
        with torch.no_grad():
            output = self.call(self.pipe, batch, size or self.size, **given)
        return torch.as_tensor(output)

    def first_step(self, steps: int) -> int:
        """Where a run of ``steps`` begins on the scheduler's grid."""
        return 0 if self.strength is None else int(steps - min(steps * self.strength, steps))

    @property
    def modules(self) -> list[nn.Module]:
        """The denoisers."""
        return [getattr(self.pipe, name) for name in self.denoisers]


class Prompted:
    """A tiny pipeline that takes a prompt as the whole ones do: each prompt is an embedding of its own."""

    def __init__(self, tiny: TinyPipeline) -> None:
        self.tiny = tiny

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tiny.pipe, name)

    def __call__(
        self, prompt: str, num_inference_steps: int = 8, generator: Any = None, output_type: str = "latent"
    ) -> Any:
        """The final sample; all that the tiny pipelines give is latent."""
        token = _WORDS.set(zlib.crc32(prompt.encode()))
        try:
            given = {"num_inference_steps": num_inference_steps, "generator": generator}
            with torch.no_grad():
                return SimpleNamespace(
                    images=torch.as_tensor(self.tiny.call(self.tiny.pipe, 1, self.tiny.size, **given))
                )
        finally:
            _WORDS.reset(token)


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


_WORDS: ContextVar[int] = ContextVar("words", default=0)


def embeds(*shape: int, seed: int = 7) -> Tensor:
    """A stand-in for what a text encoder gives; words of their own where a :class:`Prompted` pipeline is called."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + _WORDS.get()))


def pair(batch: int, width: int = WIDTH) -> dict[str, Tensor]:
    """Embeddings of a prompt and of a negative prompt."""
    return {
        "prompt_embeds": embeds(batch, TOKENS, width),
        "negative_prompt_embeds": embeds(batch, TOKENS, width, seed=8),
    }


def pooled(batch: int) -> dict[str, Tensor]:
    """Their pooled companions."""
    return {
        "pooled_prompt_embeds": embeds(batch, WIDTH, seed=9),
        "negative_pooled_prompt_embeds": embeds(batch, WIDTH, seed=10),
    }


def masks(batch: int, name: str = "prompt_attention_mask", dtype: torch.dtype = torch.long) -> dict[str, Tensor]:
    """Attention masks that hide nothing."""
    ones = torch.ones(batch, TOKENS, dtype=dtype)
    return {name: ones, f"negative_{name}": ones.clone()}


def assemble(pipeline: type, **components: Any) -> Any:
    """A pipeline whose other components are ``None``, silent."""
    parameters = list(inspect.signature(pipeline.__init__).parameters.values())[1:]
    absent = {one.name: None for one in parameters if one.default is inspect.Parameter.empty}
    pipe = pipeline(**{**absent, **components})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(
    name: str,
    pipeline: str,
    model: nn.Module,
    scheduler: Any,
    call: Callable[..., Any],
    branches: tuple[str, ...],
    size: int,
    **components: Any,
) -> TinyPipeline:
    """Random weights in, a tiny pipeline out."""
    key = "unet" if isinstance(model, diffusers.UNet2DConditionModel) else "transformer"
    pipe = assemble(getattr(diffusers, pipeline), scheduler=scheduler, **{key: randomise(model)}, **components)
    denoisers = (key, "transformer_2") if components.get("transformer_2") is not None else (key,)
    return TinyPipeline(name, pipe, call, branches, size, denoisers)


def images(result: Any) -> Any:
    """What an image pipeline gave."""
    return result.images


def frames(result: Any) -> Any:
    """What a video pipeline gave."""
    return result.frames


def square(size: int) -> dict[str, Any]:
    """Height, width, and no decoding."""
    return {"height": size, "width": size, "output_type": "latent"}


def picture(size: int) -> Tensor:
    """A picture to begin from or to refer to: shape (1, 3, size, size), values in [0, 1]."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(11))


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


class StandIn:
    """Stands for an autoencoder of which a pipeline reads attributes only."""

    dtype = torch.float32

    def __init__(self, config: dict[str, Any], **attributes: Any) -> None:
        self.config = SimpleNamespace(**config)
        for name, value in attributes.items():
            setattr(self, name, value)


def build(name: str) -> TinyPipeline:
    """The tiny pipeline called ``name``."""
    from tests.support import pipelines_edit, pipelines_image, pipelines_more, pipelines_video

    families = (pipelines_image, pipelines_edit, pipelines_more, pipelines_video)
    return next(family.BUILDERS[name] for family in families if name in family.BUILDERS)()


NAMES = (
    "flux",
    "flux_img2img",
    "flux_inpaint",
    "flux_fill",
    "flux_control",
    "flux_kontext",
    "flux2",
    "flux2_klein",
    "sd3",
    "sd3_5",
    "sd3_img2img",
    "sd3_inpaint",
    "qwen_image",
    "qwen_image_lightning",
    "qwen_image_img2img",
    "qwen_image_edit",
    "qwen_image_edit_plus",
    "sdxl",
    "sdxl_img2img",
    "sdxl_inpaint",
    "dit",
    "pixart_sigma",
    "sana",
    "z_image",
    "z_image_img2img",
    "chroma",
    "lumina2",
    "wan",
    "wan_2_2",
    "wan_i2v",
    "wan_vace",
    "hunyuan_video",
    "hunyuan_video_1_5",
    "ltx",
    "ltx2",
    "cogvideox",
    "kandinsky5",
    "mochi",
    "cogview4",
    "aura_flow",
    "hidream",
    "hunyuan_image",
    "stable_diffusion",
    "stable_audio",
    "skyreels_v2",
    "flux_controlnet",
)
