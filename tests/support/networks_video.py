"""Configurations of the tiny video pipelines' networks; calling one makes it."""

from __future__ import annotations

import inspect
from functools import partial

import diffusers

from tests.support.networks import FOUR, HEADS
from tests.support.parts import TOKENS, WIDTH

# diffusers 0.37 has no guidance by skipped blocks and by the other modality.
LTX2_GUIDES_MORE = "stg_scale" in inspect.signature(diffusers.LTX2Pipeline.__call__).parameters

_WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": WIDTH,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
    **FOUR,
}
wan_model = partial(diffusers.WanTransformer3DModel, **_WAN)
wan_vace_model = partial(diffusers.WanVACETransformer3DModel, vace_layers=[0], vace_in_channels=72, **_WAN)
skyreels_model = partial(diffusers.SkyReelsV2Transformer3DModel, **_WAN)
_HUNYUAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_refiner_layers": 1,
    "text_embed_dim": WIDTH,
    "rope_axes_dim": (4, 4, 4),
}
hunyuan_video_model = partial(
    diffusers.HunyuanVideoTransformer3DModel,
    num_layers=1,
    num_single_layers=2,
    pooled_projection_dim=WIDTH,
    **FOUR,
    **_HUNYUAN,
)
hunyuan_video_1_5_model = partial(
    diffusers.HunyuanVideo15Transformer3DModel,
    in_channels=9,
    out_channels=4,
    num_layers=2,
    text_embed_2_dim=WIDTH,
    image_embed_dim=16,
    target_size=32,
    task_type="t2v",
    **_HUNYUAN,
)
ltx_model = partial(
    diffusers.LTXVideoTransformer3DModel,
    in_channels=8,
    out_channels=8,
    num_layers=2,
    cross_attention_dim=WIDTH,
    caption_channels=WIDTH,
    **HEADS,
)
ltx2_model = partial(
    diffusers.LTX2VideoTransformer3DModel,
    in_channels=8,
    out_channels=8,
    cross_attention_dim=32,
    audio_in_channels=8,
    audio_out_channels=8,
    audio_num_attention_heads=2,
    audio_attention_head_dim=8,
    audio_cross_attention_dim=16,
    num_layers=2,
    caption_channels=WIDTH,
    rope_double_precision=False,
    **HEADS,
)
_CONNECTOR = {"attention_head_dim": 16, "num_attention_heads": 2, "num_layers": 1, "num_learnable_registers": None}
ltx2_connectors = partial(
    diffusers.pipelines.ltx2.LTX2TextConnectors,
    caption_channels=WIDTH,
    text_proj_in_factor=1,
    rope_double_precision=False,
    connector_rope_base_seq_len=4096,  # has no default in diffusers 0.37
    rope_theta=10000.0,
    causal_temporal_positioning=False,
    **{f"{kind}_connector_{name}": value for kind in ("video", "audio") for name, value in _CONNECTOR.items()},
)
cogvideox_model = partial(
    diffusers.CogVideoXTransformer3DModel,
    time_embed_dim=16,
    text_embed_dim=WIDTH,
    num_layers=2,
    sample_width=4,
    sample_height=4,
    sample_frames=5,
    max_text_seq_length=TOKENS,
    **FOUR,
    **HEADS,
)
kandinsky5_model = partial(
    diffusers.Kandinsky5Transformer3DModel,
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
mochi_model = partial(
    diffusers.MochiTransformer3DModel,
    in_channels=4,
    num_layers=2,
    pooled_projection_dim=16,
    text_embed_dim=WIDTH,
    time_embed_dim=16,
    max_sequence_length=TOKENS,
    **HEADS,
)
