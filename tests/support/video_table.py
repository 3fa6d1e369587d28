"""The table of tiny video pipelines: one row each."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import diffusers
import torch

from tests.support import networks as nets
from tests.support import networks_video as videos
from tests.support.image_table import NO_BATCH
from tests.support.parts import TOKENS, StandIn, randomise, tiny_wan_vae
from tests.support.pipeline_row import (
    GUIDER,
    JOINT,
    ONE,
    TWO,
    UNNAMED_TWO,
    Row,
    shown,
    text,
    text_kandinsky,
    text_masked,
    text_pooled,
    text_twice,
)

FIVE = {"num_frames": 5}
WAN_VAE = {"vae": tiny_wan_vae}
ZERO_MEANS = {"latents_mean": torch.zeros(8), "latents_std": torch.ones(8)}
LTX2_GUIDANCE = {"stg_scale": 1.0, "modality_scale": 3.0, "spatio_temporal_guidance_blocks": [1]}
LTX2_COMPONENTS = {
    "connectors": lambda: randomise(videos.ltx2_connectors(), 2),
    "vae": StandIn({"scaling_factor": 1.0}, spatial_compression_ratio=32, temporal_compression_ratio=8, **ZERO_MEANS),
    "audio_vae": StandIn(
        {"sample_rate": 16000, "mel_hop_length": 160, "mel_bins": 16, "latent_channels": 2},
        mel_compression_ratio=4,
        temporal_compression_ratio=4,
        **ZERO_MEANS,
    ),
}


def frames(result: Any) -> Any:
    """The latents of a video."""
    return result.frames


def frames_and_sound(result: Any) -> Any:
    """The latents of a video and of its sound, end to end."""
    batch = len(result.frames)
    return torch.cat([result.frames.reshape(batch, -1), result.audio.reshape(batch, -1)], dim=1)


# Guidance in two calls with contexts, UniPC on flow sigmas, integer timesteps.
WAN = Row("WanPipeline", videos.wan_model, nets.unipc, (text, FIVE), 32, TWO, output=frames)

VIDEOS: dict[str, Row] = {
    "wan": WAN,
    # A second transformer takes over where the noise is low.
    "wan_2_2": replace(
        WAN,
        components={"transformer_2": lambda: randomise(videos.wan_model(), 1), "boundary_ratio": 0.7},
        more={"denoisers": ("transformer", "transformer_2")},
    ),
    # The first frame's latents and a mask as further channels.
    "wan_i2v": replace(
        WAN,
        kind="WanImageToVideoPipeline",
        model=partial(videos.wan_model, in_channels=12),
        inputs=(text, shown(), FIVE),
        components=WAN_VAE,
    ),
    # A second stack of blocks adds the control video.
    "wan_vace": replace(WAN, kind="WanVACEPipeline", model=videos.wan_vace_model, components=WAN_VAE, more=NO_BATCH),
    # Wan's kin, with its own names for the branches.
    "skyreels_v2": replace(WAN, kind="SkyReelsV2Pipeline", model=videos.skyreels_model),
    # Distilled guidance, one call.
    "hunyuan_video": Row(
        "HunyuanVideoPipeline",
        videos.hunyuan_video_model,
        nets.flow,
        (text_pooled, text_masked, FIVE),
        32,
        ONE,
        output=frames,
    ),
    # A guider calls each branch under its own name; two text encoders and picture tokens.
    "hunyuan_video_1_5": Row(
        "HunyuanVideo15Pipeline",
        videos.hunyuan_video_1_5_model,
        nets.flow,
        (text_twice, FIVE),
        64,
        GUIDER,
        {
            "vae": StandIn({"latent_channels": 4}, temporal_compression_ratio=4, spatial_compression_ratio=16),
            "guider": partial(diffusers.ClassifierFreeGuidance, guidance_scale=4.0),
        },
        frames,
        attributes={"vision_num_semantic_tokens": 3},
    ),
    # Guidance in one batch under one context.
    "ltx": Row(
        "LTXPipeline", videos.ltx_model, nets.dynamic, (text_masked, {"num_frames": 9}), 64, JOINT, output=frames
    ),
    # Video and audio out of one network, called under three names a step.
    "ltx2": Row(
        "LTX2Pipeline",
        videos.ltx2_model,
        nets.dynamic,
        (text_masked, {"num_frames": 9}, LTX2_GUIDANCE if videos.LTX2_GUIDES_MORE else {}),
        64,
        (*JOINT, "uncond_stg", "uncond_modality") if videos.LTX2_GUIDES_MORE else JOINT,
        LTX2_COMPONENTS,
        frames_and_sound,
        {"heads": 2},
    ),
    # Its own DDIM, no learned variance.
    "cogvideox": Row(
        "CogVideoXPipeline",
        videos.cogvideox_model,
        partial(diffusers.CogVideoXDDIMScheduler, clip_sample=False),
        (text, FIVE, {"max_sequence_length": TOKENS}),
        32,
        JOINT,
        output=frames,
    ),
    # An output object, two calls without a context.
    "kandinsky5": Row(
        "Kandinsky5T2VPipeline",
        videos.kandinsky5_model,
        nets.flow,
        (text_kandinsky, FIVE),
        32,
        UNNAMED_TWO,
        output=frames,
    ),
    # Rising sigmas.
    "mochi": Row(
        "MochiPipeline",
        videos.mochi_model,
        partial(nets.flow, shift=1.0, invert_sigmas=True),
        (partial(text_masked, dtype=torch.bool), {"num_frames": 7}),
        32,
        JOINT,
        output=frames,
    ),
}
