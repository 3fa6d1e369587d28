"""The tiny pipelines that make videos."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch

from tests.support.pipelines import (
    ONE,
    TOKENS,
    TWO,
    UNNAMED_TWO,
    WIDTH,
    StandIn,
    TinyPipeline,
    embeds,
    frames,
    make,
    masks,
    pair,
    pooled,
    randomise,
    square,
)
from tests.support.pipelines_image import HEADS, flow

JOINT = ("cond_uncond",)


WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "out_channels": 4,
    "text_dim": WIDTH,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}


def wan_model(in_channels: int = 4) -> Any:
    """Wan's transformer."""
    return diffusers.WanTransformer3DModel(in_channels=in_channels, **WAN)


def wan_vace_model() -> Any:
    """Wan's transformer with control blocks."""
    return diffusers.WanVACETransformer3DModel(in_channels=4, vace_layers=[0], vace_in_channels=72, **WAN)


def tiny_wan_vae() -> Any:
    """Wan's autoencoder, four frames to one and eight pixels to one."""
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
    )
    return randomise(vae, 3)


def unipc() -> Any:
    """UniPC on flow sigmas."""
    return diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan(**components: Any) -> TinyPipeline:
    """Wan 2.1: guidance in two calls with contexts, UniPC on flow sigmas, integer timesteps."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return frames(pipe(**pair(batch), num_frames=5, **square(size), **options))

    name = "wan_2_2" if components else "wan"
    return make(name, "WanPipeline", wan_model(), unipc(), call, TWO, 32, **components)


def wan_2_2() -> TinyPipeline:
    """Wan 2.2: a second transformer takes over where the noise is low."""
    return wan(transformer_2=randomise(wan_model(), 1), boundary_ratio=0.7)


def hunyuan_video() -> TinyPipeline:
    """HunyuanVideo: distilled guidance, one call."""
    model = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        rope_axes_dim=(4, 4, 4),
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), **pooled(batch), **masks(batch)}
        return frames(pipe(**given, num_frames=5, **square(size), **options))

    return make("hunyuan_video", "HunyuanVideoPipeline", model, flow(), call, ONE, 32)


def hunyuan_video_1_5() -> TinyPipeline:
    """HunyuanVideo 1.5: a guider calls each branch under a name of its own; two text encoders and picture tokens."""
    model = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        image_embed_dim=16,
        rope_axes_dim=(4, 4, 4),
        target_size=32,
        task_type="t2v",
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), **masks(batch, "prompt_embeds_mask", torch.int64)}
        given |= {f"{name}_2": value for name, value in given.items()}
        return frames(pipe(**given, num_frames=5, **square(size), **options))

    vae = StandIn({"latent_channels": 4}, temporal_compression_ratio=4, spatial_compression_ratio=16)
    components = {"vae": vae, "guider": diffusers.ClassifierFreeGuidance(guidance_scale=4.0)}
    kind, branches = "HunyuanVideo15Pipeline", ("pred_cond", "pred_uncond")
    made = make("hunyuan_video_1_5", kind, model, flow(), call, branches, 64, **components)
    made.pipe.vision_num_semantic_tokens = 3
    return made


def ltx() -> TinyPipeline:
    """LTX-Video: guidance in one batch under one context."""
    model = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_layers=2, cross_attention_dim=WIDTH, caption_channels=WIDTH, **HEADS
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return frames(pipe(**pair(batch), **masks(batch), num_frames=9, **square(size), **options))

    return make("ltx", "LTXPipeline", model, flow(use_dynamic_shifting=True), call, JOINT, 64)


# diffusers 0.37 has no guidance by skipped blocks and by the other modality.
LTX2_GUIDES_MORE = "stg_scale" in inspect.signature(diffusers.LTX2Pipeline.__call__).parameters


def ltx2() -> TinyPipeline:
    """LTX-2: video and audio come out of one network, called under three names a step."""
    model = diffusers.LTX2VideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        audio_in_channels=8,
        audio_out_channels=8,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=2,
        caption_channels=WIDTH,
        rope_double_precision=False,
    )
    connectors = diffusers.pipelines.ltx2.LTX2TextConnectors(
        caption_channels=WIDTH,
        text_proj_in_factor=1,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=16,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=16,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        rope_double_precision=False,
        connector_rope_base_seq_len=4096,  # has no default in diffusers 0.37
        rope_theta=10000.0,
        causal_temporal_positioning=False,
    )
    means = {"latents_mean": torch.zeros(8), "latents_std": torch.ones(8)}
    components = {
        "connectors": randomise(connectors, 2),
        "vae": StandIn({"scaling_factor": 1.0}, spatial_compression_ratio=32, temporal_compression_ratio=8, **means),
        "audio_vae": StandIn(
            {"sample_rate": 16000, "mel_hop_length": 160, "mel_bins": 16, "latent_channels": 2},
            mel_compression_ratio=4,
            temporal_compression_ratio=4,
            **means,
        ),
    }

    more_guidance = {"stg_scale": 1.0, "modality_scale": 3.0, "spatio_temporal_guidance_blocks": [1]}
    more_guidance = more_guidance if LTX2_GUIDES_MORE else {}

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), **masks(batch), "num_frames": 9, **more_guidance}
        output = pipe(**given, **square(size), **options)
        return torch.cat([output.frames.reshape(batch, -1), output.audio.reshape(batch, -1)], dim=1)

    branches = (*JOINT, "uncond_stg", "uncond_modality") if more_guidance else JOINT
    made = make("ltx2", "LTX2Pipeline", model, flow(use_dynamic_shifting=True), call, branches, 64, **components)
    made.heads = 2
    return made


def cogvideox() -> TinyPipeline:
    """CogVideoX: its own DDIM, learned nothing but noise."""
    model = diffusers.CogVideoXTransformer3DModel(
        in_channels=4,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=WIDTH,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        max_text_seq_length=TOKENS,
        **HEADS,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), "num_frames": 5, "max_sequence_length": TOKENS}
        return frames(pipe(**given, **square(size), **options))

    scheduler = diffusers.CogVideoXDDIMScheduler(clip_sample=False)
    return make("cogvideox", "CogVideoXPipeline", model, scheduler, call, JOINT, 32)


def kandinsky5() -> TinyPipeline:
    """Kandinsky 5: an output object, two calls without a context."""
    model = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=16,
        model_dim=32,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given: dict[str, Any] = {}
        lengths = torch.arange(batch + 1, dtype=torch.int32) * TOKENS
        for prefix, seed in (("", 7), ("negative_", 8)):
            given[f"{prefix}prompt_embeds_qwen"] = embeds(batch, TOKENS, WIDTH, seed=seed)
            given[f"{prefix}prompt_embeds_clip"] = embeds(batch, WIDTH, seed=seed)
            given[f"{prefix}prompt_cu_seqlens"] = lengths
        return frames(pipe(**given, num_frames=5, **square(size), **options))

    return make("kandinsky5", "Kandinsky5T2VPipeline", model, flow(), call, UNNAMED_TWO, 32)


def mochi() -> TinyPipeline:
    """Mochi: rising sigmas."""
    model = diffusers.MochiTransformer3DModel(
        in_channels=4,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=WIDTH,
        time_embed_dim=16,
        max_sequence_length=TOKENS,
        **HEADS,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), **masks(batch, dtype=torch.bool), "num_frames": 7}
        return frames(pipe(**given, **square(size), **options))

    return make("mochi", "MochiPipeline", model, flow(shift=1.0, invert_sigmas=True), call, JOINT, 32)


BUILDERS = {
    one.__name__: one
    for one in (wan, wan_2_2, hunyuan_video, hunyuan_video_1_5, ltx, ltx2, cogvideox, kandinsky5, mochi)
}
