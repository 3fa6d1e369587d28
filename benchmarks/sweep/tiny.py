"""Tiny configurations of networks without a fixture, and arguments that some pipelines need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

TEXT_WIDTH = "width of the text encoder"  # in place of a number
_TWO_LEVELS = {"block_out_channels": (8, 16), "norm_num_groups": 8, "layers_per_block": 1}
_VIDEO = {
    **_TWO_LEVELS,
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
}
_CODES = {
    "block_out_channels": (16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}
# By the class of a component: what it is made with.
CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "UNet3DConditionModel": _VIDEO,
    "I2VGenXLUNet": _VIDEO,
    "UNet1DModel": {
        "sample_size": 64,
        "sample_rate": 64,
        "extra_in_channels": 64,
        "flip_sin_to_cos": True,
    },
    "UNet2DModel": {
        **_TWO_LEVELS,
        "sample_size": 16,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "VQModel": {**_CODES, "latent_channels": 3},
    "UVit2DModel": {
        "hidden_size": 8,
        "cond_embed_dim": TEXT_WIDTH,
        "micro_cond_encode_dim": 2,
        "micro_cond_embed_dim": 10,
        "encoder_hidden_size": TEXT_WIDTH,
        "vocab_size": 40,
        "codebook_size": 16,
        "in_channels": 8,
        "block_out_channels": 8,
        "num_res_blocks": 1,
        "block_num_heads": 1,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "sample_size": 8,
    },
    "WuerstchenPrior": {"c_in": 2, "c": 8, "depth": 2, "c_cond": 32, "c_r": 8, "nhead": 2},
    "WuerstchenDiffNeXt": {
        "c_cond": 32,
        "c_hidden": [8, 16],
        "nhead": [-1, 2],
        "blocks": [1, 1],
        "level_config": ["CT", "CTA"],
        "inject_effnet": [False, True],
        "effnet_embd": 2,
        "clip_embd": 32,
    },
    "AmusedScheduler": {"mask_token_id": 31},
    "ControlNetXSAdapter": {"size_ratio": 1.0, "conditioning_embedding_out_channels": (16, 32)},
    "ControlNetUnionModel": {
        "num_trans_channel": 32,
        "num_proj_channel": 32,
        "num_trans_head": 4,
        "conditioning_embedding_out_channels": (16, 32),
    },
    "ZImageControlNetModel": {"control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 16},
    "PaellaVQModel": {"levels": 1, "bottleneck_blocks": 1, "embed_dim": 8, "num_vq_embeddings": 16},
    "AutoencoderKLHunyuanImageRefiner": {
        "latent_channels": 8,
        "block_out_channels": (8, 8, 16, 16, 16),
        "layers_per_block": 1,
    },
}
_AMUSED = {
    "vqvae": {**_CODES, "latent_channels": 8, "vq_embed_dim": 8, "num_vq_embeddings": 16, "lookup_from_codebook": True}
}
# By the pipeline: settings of its components that differ from those of the components lent.
CHANGES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "AmusedPipeline": _AMUSED,
    "AmusedImg2ImgPipeline": _AMUSED,
    "AmusedInpaintPipeline": _AMUSED,
    "LDMSuperResolutionPipeline": {"unet": {"in_channels": 6}},
    "StableDiffusionGLIGENPipeline": {"unet": {"attention_type": "gated"}},
    "PaintByExamplePipeline": {"unet": {"in_channels": 9}},
    "StableDiffusionUpscalePipeline": {"unet": {"in_channels": 7, "num_class_embeds": 1000}},
    "StableDiffusionLDM3DPipeline": {"vae": {"in_channels": 6, "out_channels": 6}},
    "LucyEditPipeline": {"transformer": {"in_channels": 96}},
    "QwenImageControlNetInpaintPipeline": {"controlnet": {"extra_condition_channels": 4}},
    "PIAPipeline": {"unet": {"in_channels": 9}},
}


def _sound(seed: int) -> torch.Tensor:
    return torch.randn(1, 2, 2048, generator=torch.Generator().manual_seed(seed))


# By the pipeline: arguments that it needs besides a fixture's, made from the seed.
ARGUMENTS: Mapping[str, Mapping[str, Callable[[int], Any]]] = {
    "StableDiffusionGLIGENPipeline": {
        "gligen_phrases": lambda _: ["an apple"],
        "gligen_boxes": lambda _: [[0.2, 0.3, 0.7, 0.8]],
    },
    "StableDiffusionAttendAndExcitePipeline": {"token_indices": lambda _: [2], "max_iter_to_alter": lambda _: 2},
    "StableAudio3AudioToAudioPipeline": {"audio": _sound},
    "StableAudio3InpaintPipeline": {
        "audio": _sound,
        "mask": lambda _: None,
        "mask_start_seconds": lambda _: 0.0,
        "mask_end_seconds": lambda _: 0.01,
    },
    "TextToVideoZeroPipeline": {"t0": lambda _: 4, "t1": lambda _: 6},
    "TextToVideoZeroSDXLPipeline": {"t0": lambda _: 4, "t1": lambda _: 6},
    "StableDiffusionXLControlNetUnionPipeline": {"control_mode": lambda _: [0]},
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": {"control_mode": lambda _: [0]},
    "StableDiffusionXLControlNetUnionInpaintPipeline": {"control_mode": lambda _: [0]},
    "StableDiffusionPanoramaPipeline": {"height": lambda _: 64, "width": lambda _: 128},
    "WuerstchenDecoderPipeline": {"image_embeddings": lambda _: torch.ones(1, 2, 4, 4)},
    "ZImageOmniPipeline": {"height": lambda _: 64, "width": lambda _: 64},
    "SanaWMPipeline": {"action": lambda _: "forward"},
}
