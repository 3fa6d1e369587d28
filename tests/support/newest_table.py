"""The table of tiny pipelines of the newest diffusers without a fixture upstream: one row each.

Nothing here is made before a row is built, so that the module imports under every version.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import diffusers
import torch
from torch import Tensor

from tests.support import networks as nets
from tests.support import networks_video as videos
from tests.support.image_table import IMAGES, QWEN_EDIT, VAE
from tests.support.parts import TOKENS, WIDTH, StandIn, StandInEncoder, embeds, pair, pil_picture, randomise
from tests.support.pipeline_row import TWO, UNNAMED_TWO, Row, inpainted, shown, text, text_kandinsky, text_masked
from tests.support.video_table import frames, frames_and_sound

HEAD = {"attention_head_dim": 16, "num_attention_heads": 2}
MASKED = partial(text_masked, name="prompt_embeds_mask")
SOUND = {"in_audio_dim": 4, "out_audio_dim": 4}


class LayerEncoder(StandInEncoder):
    """In place of the autoencoder; it decodes, since the pipeline cannot return latents."""

    def decode(self, latents: Tensor, **_: Any) -> list[Tensor]:
        """The first three channels."""
        return [latents[:, :3]]


class Processor:
    """In place of Qwen-Image 2.1's, which asks it for the length of the system prompt."""

    tokenizer = property(lambda self: self)

    def apply_chat_template(self, *_: Any, **__: Any) -> list[list[int]]:
        """Three tokens."""
        return [[0, 1, 2]]

    def encode(self, _: str) -> list[int]:
        """One token."""
        return [0]


def ideogram_model() -> Any:
    """Ideogram 4's network: text and picture in one sequence."""
    sizes = {"in_channels": 16, "num_layers": 2, "intermediate_size": 64, "adaln_dim": 32, "llm_features_dim": WIDTH}
    return diffusers.Ideogram4Transformer2DModel(mrope_section=(4, 2, 2), **sizes, **HEAD)


def ideogram_text(prompt: Any, grid_h: int, grid_w: int, max_sequence_length: int, device: Any) -> tuple[Tensor, ...]:
    """In place of Ideogram's text encoder: features, positions, segments and roles."""
    batch = 1 if isinstance(prompt, str) else len(prompt)
    layout = diffusers.Ideogram4Pipeline._prepare_ids([TOKENS] * batch, grid_h, grid_w, max_sequence_length, device)
    return embeds(batch, max_sequence_length + grid_h * grid_w, WIDTH), *layout


def ernie_model() -> Any:
    """ERNIE-Image's network: one stream of blocks."""
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 64, "in_channels": 16}
    return diffusers.ErnieImageTransformer2DModel(out_channels=16, text_in_dim=WIDTH, rope_axes_dim=(4, 6, 6), **sizes)


def longcat_model() -> Any:
    """LongCat-Image's network: joint blocks, then single ones."""
    sizes = {"in_channels": 64, "num_layers": 1, "num_single_layers": 2, "joint_attention_dim": WIDTH}
    return diffusers.LongCatImageTransformer2DModel(
        pooled_projection_dim=WIDTH, axes_dims_rope=(4, 6, 6), **sizes, **HEAD
    )


def longcat_text(prompt: Any, prompt_embeds: Any = None, num_images_per_prompt: int = 1) -> tuple[Tensor, Tensor]:
    """In place of LongCat's text encoder, which needs the prompt also where its embeddings are given."""
    batch = len(prompt) if isinstance(prompt, list) else 1
    return embeds(batch, TOKENS, WIDTH, seed=7 if prompt != "" else 8), torch.zeros(TOKENS, 3)


def qwen_21_model() -> Any:
    """Qwen-Image 2.1's network, which keeps the text's keys and values after its first call."""
    sizes = {"in_channels": 16, "out_channels": 16, "num_layers": 2, "context_in_dim": WIDTH}
    return diffusers.QwenImage21Transformer2DModel(axes_dims_rope=(4, 6, 6), **sizes, **HEAD)


def kandinsky_6_model() -> Any:
    """Kandinsky 6's network: a video and its sound."""
    sizes = {"in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": WIDTH, "in_text_dim2": WIDTH, "time_dim": 32}
    blocks = {"model_dim": 32, "ff_dim": 64, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (4, 6, 6)}
    return diffusers.Kandinsky6Transformer3DModel(**sizes, **blocks, **SOUND)


def kandinsky_6_sr_model() -> Any:
    """The network of Kandinsky 6's enlargement, on tiles."""
    sizes = {"in_visual_dim": 4, "out_visual_dim": 4, "time_dim": 32, "model_dim": 32, "ff_dim": 64}
    return diffusers.Kandinsky6SRTransformer3DModel(
        num_visual_blocks=2, axes_dims=(4, 6, 6), tile_sizes=((128, 128),), **sizes
    )


def text_kandinsky_6(batch: int, _: int) -> dict[str, Tensor]:
    """Kandinsky 6's embeddings, and pooled ones."""
    pools = {
        "pooled_prompt_embeds": embeds(batch, WIDTH),
        "negative_pooled_prompt_embeds": embeds(batch, WIDTH, seed=8),
    }
    return {**pair(batch), **pools}


def glm_model() -> Any:
    """GLM-Image's network, which is also given a plan of the picture in discrete tokens."""
    sizes = {"in_channels": 4, "out_channels": 4, "num_layers": 2, "text_embed_dim": WIDTH, "time_embed_dim": 32}
    return diffusers.GlmImageTransformer2DModel(condition_dim=8, prior_vq_quantizer_codebook_size=16, **sizes, **HEAD)


def enlarged(batch: int, _: int) -> dict[str, Any]:
    """A video to be enlarged."""
    return {
        "video": torch.rand(batch, 1, 3, 64, 64, generator=torch.Generator().manual_seed(12)),
        "resolution_scale": 2,
    }


def encoded(video: Tensor) -> Tensor:
    """In place of Kandinsky 6's autoencoder: the means of 16 x 16 pixels, in four channels."""
    return torch.nn.functional.avg_pool3d(video, (1, 16, 16)).mean(1, keepdim=True).repeat(1, 4, 1, 1, 1)


def decoded(latents: Tensor) -> Tensor:
    """In place of Kandinsky 6's autoencoder: each latent for 16 x 16 pixels, three channels."""
    return latents[:, :3].repeat_interleave(16, dim=-1).repeat_interleave(16, dim=-2)


KANDINSKY_5 = Row(
    "Kandinsky5T2IPipeline",
    videos.kandinsky5_model,
    nets.flow,
    (text_kandinsky,),
    32,
    UNNAMED_TWO,
    output=lambda result: result.image,
    attributes={"resolutions": [(16, 16), (32, 32), (64, 64)]},
)

NEWEST: dict[str, Row] = {
    # A second network without text beside the first, at every step.
    "ideogram_4": Row(
        "Ideogram4Pipeline",
        ideogram_model,
        nets.flow,
        (
            lambda batch, _: {"prompt": ["a"] * batch},
            {"guidance_scale": 4.0, "guidance_schedule": None, "max_sequence_length": 8},
        ),
        64,
        components={"unconditional_transformer": lambda: randomise(ideogram_model(), 1)},
        more={"denoisers": ("transformer", "unconditional_transformer")},
        attributes={"encode_prompt": ideogram_text},
    ),
    "ernie_image": Row(
        "ErnieImagePipeline",
        ernie_model,
        nets.flow,
        (lambda batch, _: {name: list(value) for name, value in pair(batch).items()},),
        64,
    ),
    "longcat_image": Row(
        "LongCatImagePipeline",
        longcat_model,
        nets.dynamic,
        (lambda batch, _: {"prompt": ["a"] * batch, "enable_prompt_rewrite": False},),
        64,
        TWO,
        attributes={"encode_prompt": longcat_text},
    ),
    # The layers' tokens, and the picture's own behind them.
    "qwen_image_layered": replace(
        QWEN_EDIT,
        kind="QwenImageLayeredPipeline",
        model=partial(nets.qwen_model, use_additional_t_cond=True, use_layer3d_rope=True),
        inputs=(
            MASKED,
            {"layers": 2, "output_type": "pt"},
            lambda batch, _: {"image": [pil_picture()], "prompt": ["a"] * batch},
        ),
        components={"vae": partial(LayerEncoder, 4, 6), "text_encoder": StandIn({})},
        output=lambda result: torch.stack(list(result.images)),
        seed=0,
        sized=False,
    ),
    # Keys and values of the text are kept from the first step on.
    "qwen_image_2_1": Row(
        "QwenImage21Pipeline",
        qwen_21_model,
        nets.dynamic,
        (MASKED, {"true_cfg_scale": 4.0}),
        64,
        TWO,
        {"processor": Processor()},
    ),
    # A video and its sound, each with a scheduler.
    "kandinsky_6": Row(
        "Kandinsky6TI2VAPipeline",
        kandinsky_6_model,
        nets.flow,
        (text_kandinsky_6, {"num_frames": 5, "frame_rate": 24.0}),
        32,
        TWO,
        {
            "vae": StandIn({"spatial_compression_ratio": 8, "temporal_compression_ratio": 4}),
            "audio_vae": StandIn({"sample_rate": 4000}, latent_hop_length=100),
            "vocoder": StandIn({}),
        },
        frames_and_sound,
        {"heads": 2},
    ),
    # Every tile is a run.
    "kandinsky_6_sr": Row(
        "Kandinsky6SRPipeline",
        kandinsky_6_sr_model,
        nets.flow,
        (enlarged, {"output_type": "pt"}),
        32,
        components={
            "vae": StandIn({}, spatial_compression_ratio=16, temporal_compression_ratio=4),
        },
        output=frames,
        attributes={"encode_video": encoded, "decode_latents": decoded},
        sized=False,
    ),
    "kandinsky_5_t2i": KANDINSKY_5,
    # A plan of the picture in discrete tokens, dropped for the unguided call.
    "glm_image": Row(
        "GlmImagePipeline",
        glm_model,
        nets.flow,
        (
            text,
            lambda batch, size: {"prior_token_ids": torch.arange((size // 16) ** 2).repeat(batch, 1) % 16},
        ),
        64,
        TWO,
    ),
    "chroma_inpaint": IMAGES["chroma"].begun("ChromaInpaintPipeline", inpainted, components=VAE),
    "cogview4_control": replace(
        IMAGES["cogview4"],
        kind="CogView4ControlPipeline",
        model=partial(nets.cogview4_model, in_channels=8),
        inputs=(text, shown("control_image")),
        components=VAE,
        size=16,
        seed=0,
    ),
}
