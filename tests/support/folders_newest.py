"""Parts of the folders of the newest pipelines; with denoiser and scheduler if the tables have no row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers

from tests.support import folders_text as text
from tests.support import folders_text_newest as newest
from tests.support import networks as nets
from tests.support.folders_parts import STATISTICS, Parts, flux2_vae, network, one, picture_vae, qwen_vae, remade
from tests.support.networks import FOUR, HEADS
from tests.support.parts import tiny_wan_vae
from tests.support.pipelines import WIDTH, tiny_vae

SPATIAL_HEADS = {**HEADS, "attention_head_dim": 12}  # of which three axes have a share
WAN = {**SPATIAL_HEADS, **FOUR, "text_dim": WIDTH, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2}
COSMOS = {"num_layers": 2, "mlp_ratio": 2, "text_embed_dim": WIDTH, "adaln_lora_dim": 4, "max_size": (4, 32, 32)}


def krea2() -> Parts:
    """Qwen 3 VL, three of whose layers are stacked."""
    transformer = network(
        "Krea2Transformer2DModel",
        in_channels=16,
        num_layers=2,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=WIDTH,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
        **HEADS,
    )
    parts = {"transformer": transformer, "scheduler": nets.dynamic(), "vae": qwen_vae(3)}
    return {**parts, **one(newest.qwen3_vl(2)), "text_encoder_select_layers": (0, 1, 2)}


def ideogram_4() -> Parts:
    """Qwen 3 VL, thirteen of whose layers are stacked."""
    denoisers = {
        name: remade("ideogram_4", llm_features_dim=13 * WIDTH) for name in ("transformer", "unconditional_transformer")
    }
    return {**denoisers, "vae": flux2_vae(), **one(newest.qwen3_vl(36))}


def ernie_image() -> Parts:
    """Mistral 3, of which a picture's tokens are no part."""
    return {"vae": flux2_vae(), **one(newest.mistral3_words())}


def hidream() -> Parts:
    """Two CLIPs, T5, and Llama, every layer of which is read."""
    clips = {**one(text.clip(16, projection=True)), **one(text.clip(16, projection=True), "_2")}
    return {"vae": tiny_vae(), **clips, **one(text.t5(), "_3"), **one(newest.llama_writing(3), "_4")}


def prx() -> Parts:
    """Gemma as an encoder."""
    sizes = {"hidden_size": 32, "num_heads": 2, "depth": 2, "axes_dim": [8, 8], "context_in_dim": WIDTH}
    transformer = network("PRXTransformer2DModel", in_channels=4, patch_size=2, **sizes)
    return {
        "transformer": transformer,
        "scheduler": nets.flow(),
        "vae": tiny_vae(),
        **one(newest.t5_gemma("T5GemmaEncoder")),
    }


def prx_pixel() -> Parts:
    """Qwen 3, and no autoencoder."""
    sizes = {"hidden_size": 32, "num_heads": 2, "depth": 2, "axes_dim": [8, 8], "context_in_dim": WIDTH}
    transformer = network(
        "PRXTransformer2DModel", in_channels=3, patch_size=8, bottleneck_size=16, resolution_embeds=True, **sizes
    )
    return {"transformer": transformer, "scheduler": nets.flow(), **one(newest.qwen3_reading())}


class Unguarded:
    """In place of Cosmos' guardrail, whose weights are on the Hub: everything is safe."""

    def to(self, *_: Any) -> Unguarded:
        """Move nothing."""
        return self

    def check_text_safety(self, _: str) -> bool:
        """Safe."""
        return True

    def check_video_safety(self, video: Any) -> Any:
        """The video itself."""
        return video


def cosmos_2() -> Parts:
    """T5."""
    transformer = network("CosmosTransformer3DModel", **COSMOS, **FOUR, **HEADS)
    scheduler = nets.flow(shift=1.0, use_karras_sigmas=True)
    return {"transformer": transformer, "scheduler": scheduler, "vae": tiny_wan_vae(), **one(text.t5())}


def any_flow() -> Parts:
    """UMT5."""
    transformer = network("AnyFlowTransformer3DModel", rope_max_seq_len=32, **WAN)
    scheduler = diffusers.FlowMapEulerDiscreteScheduler(shift=5.0)
    encoder = one(text.t5(multilingual=True))
    return {"transformer": transformer, "scheduler": scheduler, "vae": tiny_wan_vae(), **encoder}


def sana_video() -> Parts:
    """Gemma 2."""
    cross = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 12, "cross_attention_dim": 24}
    transformer = network(
        "SanaVideoTransformer3DModel",
        num_layers=2,
        caption_channels=WIDTH,
        rope_max_seq_len=32,
        **cross,
        **FOUR,
        **SPATIAL_HEADS,
    )
    scheduler = nets.dpm_flow(flow_shift=3.0)
    return {"transformer": transformer, "scheduler": scheduler, "vae": tiny_wan_vae(), **one(text.gemma2())}


def wan_vace() -> Parts:
    """UMT5; a mask of 8 x 8 channels goes with the control video's latents."""
    return {**one(text.t5(multilingual=True)), "vae": tiny_wan_vae()}


def wan_animate() -> Parts:
    """UMT5 and CLIP's eye."""
    sizes = dict.fromkeys(("motion_encoder_dim", "face_encoder_hidden_dim", "motion_encoder_size"), 16)
    transformer = network(
        "WanAnimateTransformer3DModel",
        latent_channels=4,
        image_dim=WIDTH,
        rope_max_seq_len=32,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
        motion_style_dim=8,
        motion_dim=4,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
        **{**WAN, "in_channels": 12},
        **sizes,
    )
    seeing = {"image_processor": newest.clip_pictures(), "image_encoder": newest.clip_seeing()}
    return {"transformer": transformer, "scheduler": nets.unipc(), **wan_vace(), **seeing}


def glm_image() -> Parts:
    """T5 on bytes for glyphs, and a writer of the picture's plan; a token of the plan has 16 x 16 pixels."""
    processor, writer = newest.glm_writing()
    parts = {"vae": picture_vae(**STATISTICS), "processor": processor, "vision_language_encoder": writer}
    return {**parts, **one(text.byt5())}


def cosmos_3() -> Parts:
    """No text encoder: the network reads the prompt's tokens."""
    tokenizer = text.qwen_tokenizer()
    transformer = network(
        "Cosmos3OmniTransformer",
        head_dim=16,
        hidden_size=32,
        intermediate_size=32,
        latent_channel=4,
        latent_patch_size=1,
        patch_latent_dim=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_hidden_layers=2,
        rope_axes_dim=(4, 2, 2),
        vocab_size=len(tokenizer),
    )
    parts = {"transformer": transformer, "scheduler": nets.unipc(), "vae": tiny_wan_vae()}
    return {**parts, "text_tokenizer": tokenizer, "enable_safety_checker": False}


# Beside the denoiser and the scheduler of the tables' rows.
NEWEST_PARTS: dict[str, Callable[[], Parts]] = {
    "ideogram_4": ideogram_4,
    "ernie_image": ernie_image,
    "glm_image": glm_image,
    "hidream": hidream,
    "wan_vace": wan_vace,
}
# Classes, and all their parts.
SEPARATE: dict[str, tuple[str, Callable[[], Parts]]] = {
    "krea2": ("Krea2Pipeline", krea2),
    "prx": ("PRXPipeline", prx),
    "prx_pixel": ("PRXPixelPipeline", prx_pixel),
    "cosmos_3": ("Cosmos3OmniPipeline", cosmos_3),
    "cosmos_2": ("Cosmos2TextToImagePipeline", cosmos_2),
    "any_flow": ("AnyFlowPipeline", any_flow),
    "sana_video": ("SanaVideoPipeline", sana_video),
    "wan_animate": ("WanAnimatePipeline", wan_animate),
}
