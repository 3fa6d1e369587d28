"""The tiny pipelines that make videos."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from tests.pipelines import (
    ONE,
    TOKENS,
    TWO,
    UNNAMED_TWO,
    WIDTH,
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
from tests.pipelines_image import HEADS, flow

JOINT = ("cond_uncond",)


def wan_model() -> Any:
    """Wan's transformer."""
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )


def wan(**components: Any) -> TinyPipeline:
    """Wan 2.1: guidance in two calls with contexts, UniPC on flow sigmas, integer timesteps."""
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return frames(pipe(**pair(batch), num_frames=5, **square(size), **options))

    name = "wan_2_2" if components else "wan"
    return make(name, "WanPipeline", wan_model(), scheduler, call, TWO, 32, **components)


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


def ltx() -> TinyPipeline:
    """LTX-Video: guidance in one batch under one context."""
    model = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_layers=2, cross_attention_dim=WIDTH, caption_channels=WIDTH, **HEADS
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return frames(pipe(**pair(batch), **masks(batch), num_frames=9, **square(size), **options))

    return make("ltx", "LTXPipeline", model, flow(use_dynamic_shifting=True), call, JOINT, 64)


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


BUILDERS = {one.__name__: one for one in (wan, wan_2_2, hunyuan_video, ltx, cogvideox, kandinsky5, mochi)}
