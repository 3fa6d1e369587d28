"""Configurations of the published models that ``random_weights`` builds; no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Scale = Literal["full", "small"]
SCALES: tuple[Scale, ...] = ("full", "small")
Output = Literal["prompt", "negative prompt", "pooled", "negative pooled", "mask", "no mask", "positions"]


@dataclass(frozen=True)
class RandomModel:
    """Published model, as its released configuration files describe it.

    Attributes:
        name: what users type.
        title: title in tables.
        pipeline: diffusers' class of the pipeline.
        transformer: diffusers' class of the denoiser.
        config: options of the denoiser that differ from the class's defaults.
        scheduler: diffusers' class of the scheduler.
        scheduler_config: options of the scheduler.
        encoded: outputs of the pipeline's ``encode_prompt``, in order.
        text_tokens: length of the prompt's embedding.
        call: options of the published call (size, frames, guidance).
        small: options over ``config`` for a denoiser with few layers and heads.
        small_call: options of a call that takes the small denoiser a fraction of a second per step on a CPU.
        small_tokens: length of the prompt's embedding for the small denoiser.
    """

    name: str
    title: str
    pipeline: str
    transformer: str
    config: Mapping[str, Any]
    scheduler: str
    scheduler_config: Mapping[str, Any]
    encoded: tuple[Output, ...]
    text_tokens: int
    call: Mapping[str, Any]
    small: Mapping[str, Any]
    small_call: Mapping[str, Any] = field(default_factory=dict)
    small_tokens: int = 16


_SMALL_TEXT = 128
_SMALL_IMAGE = {"height": 256, "width": 256}
_SMALL_VIDEO = {"height": 128, "width": 128, "num_frames": 9}
_FLOW = "FlowMatchEulerDiscreteScheduler"

RANDOM_MODELS: dict[str, RandomModel] = {
    model.name: model
    for model in (
        RandomModel(
            "flux.1-dev",
            "FLUX.1-dev",
            "FluxPipeline",
            "FluxTransformer2DModel",
            {"guidance_embeds": True},
            _FLOW,
            {
                "shift": 3.0,
                "use_dynamic_shifting": True,
                "base_image_seq_len": 256,
                "max_image_seq_len": 4096,
                "base_shift": 0.5,
                "max_shift": 1.15,
            },
            ("prompt", "pooled", "positions"),
            512,
            {"height": 1024, "width": 1024, "guidance_scale": 3.5},
            {
                "num_layers": 2,
                "num_single_layers": 4,
                "num_attention_heads": 2,
                "joint_attention_dim": _SMALL_TEXT,
                "pooled_projection_dim": 64,
            },
            _SMALL_IMAGE,
        ),
        RandomModel(
            "sd3.5-large",
            "Stable Diffusion 3.5-Large",
            "StableDiffusion3Pipeline",
            "SD3Transformer2DModel",
            {
                "sample_size": 128,
                "num_layers": 38,
                "num_attention_heads": 38,
                "caption_projection_dim": 2432,
                "pos_embed_max_size": 192,
                "qk_norm": "rms_norm",
            },
            _FLOW,
            {"shift": 3.0},
            ("prompt", "negative prompt", "pooled", "negative pooled"),
            333,
            {"height": 1024, "width": 1024, "guidance_scale": 7.0},
            {
                "sample_size": 32,
                "pos_embed_max_size": 32,
                "num_layers": 4,
                "num_attention_heads": 4,
                "caption_projection_dim": 256,
                "joint_attention_dim": _SMALL_TEXT,
                "pooled_projection_dim": 64,
            },
            _SMALL_IMAGE,
        ),
        RandomModel(
            "qwen-image",
            "Qwen-Image",
            "QwenImagePipeline",
            "QwenImageTransformer2DModel",
            {},
            _FLOW,
            {
                "shift": 1.0,
                "shift_terminal": 0.02,
                "use_dynamic_shifting": True,
                "base_image_seq_len": 256,
                "max_image_seq_len": 8192,
                "base_shift": 0.5,
                "max_shift": 0.9,
            },
            ("prompt", "no mask"),
            64,
            {"height": 1328, "width": 1328, "true_cfg_scale": 4.0, "negative_prompt": " "},
            {"num_layers": 4, "num_attention_heads": 2, "joint_attention_dim": _SMALL_TEXT},
            _SMALL_IMAGE,
        ),
        RandomModel(
            "hunyuan-video",
            "HunyuanVideo",
            "HunyuanVideoPipeline",
            "HunyuanVideoTransformer3DModel",
            {},
            _FLOW,
            {"shift": 7.0},
            ("prompt", "pooled", "mask"),
            256,
            {"height": 480, "width": 640, "num_frames": 65, "guidance_scale": 6.0},
            {
                "num_layers": 2,
                "num_single_layers": 4,
                "num_attention_heads": 2,
                "text_embed_dim": _SMALL_TEXT,
                "pooled_projection_dim": 64,
            },
            _SMALL_VIDEO,
        ),
        RandomModel(
            "wan2.1-14b",
            "Wan2.1-14B",
            "WanPipeline",
            "WanTransformer3DModel",
            {},
            "UniPCMultistepScheduler",
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
            ("prompt", "negative prompt"),
            512,
            {"height": 480, "width": 832, "num_frames": 81, "guidance_scale": 5.0},
            {"num_layers": 4, "num_attention_heads": 2, "text_dim": _SMALL_TEXT, "ffn_dim": 512},
            _SMALL_VIDEO,
        ),
    )
}
