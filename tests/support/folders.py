"""Whole tiny pipelines, with text encoders and autoencoder, as folders in diffusers' format.

The denoiser and the scheduler are those of ``tests.support.pipelines``; ``save(name, folder)`` writes one. Those in
``PROCESSED`` need torchvision.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers

from tests.support import folders_text as text
from tests.support.folders_newest import NEWEST_PARTS, SEPARATE
from tests.support.folders_parts import Parts, flux2_vae, hunyuan_vae, network, one, picture_vae, qwen_vae, remade
from tests.support.folders_processed import PROCESSED, PROCESSED_NEWEST, PROCESSED_SEPARATE, SIBLINGS
from tests.support.folders_sound import SOUND_PARTS, SOUND_SEPARATE
from tests.support.parts import tiny_wan_vae
from tests.support.pipelines import ROWS, WIDTH, assemble, build, randomise, tiny_vae


def flux() -> Parts:
    """CLIP and T5."""
    return {"vae": tiny_vae(), **one(text.clip()), **one(text.t5(), "_2")}


def sd3() -> Parts:
    """Two CLIPs, whose widths add up to T5's."""
    clips = {**one(text.clip(16, projection=True)), **one(text.clip(16, projection=True), "_2")}
    return {"vae": tiny_vae(), **clips, **one(text.t5(), "_3")}


def sdxl() -> Parts:
    """Two CLIPs side by side."""
    second = one(text.clip(16, projection=True), "_2")
    unet = remade("sdxl", projection_class_embeddings_input_dim=48 + 16)
    return {"vae": tiny_vae(), "unet": unet, **one(text.clip(16)), **second}


def qwen_image() -> Parts:
    """Qwen 2.5 VL."""
    return {"vae": qwen_vae(3), **one(text.qwen2_5_vl())}


def pixart_sigma() -> Parts:
    """T5."""
    return {"vae": tiny_vae(), **one(text.t5())}


def sana() -> Parts:
    """Gemma 2, and an autoencoder of residual halvings."""
    vae = network(
        "AutoencoderDC",
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
    )
    return {"vae": vae, **one(text.gemma2())}


def lumina2() -> Parts:
    """Gemma 2 with room for its prompt's letters, and the factor of 8 that the pipeline assumes."""
    transformer = remade("lumina2", axes_lens=(512, 32, 32))
    return {"vae": picture_vae(8, shift_factor=0.1), "transformer": transformer, **one(text.gemma2())}


def z_image() -> Parts:
    """Qwen 3 with a chat template."""
    return {"vae": tiny_vae(), **one(text.qwen3())}


def flux2_klein() -> Parts:
    """Qwen 3, three of whose layers are stacked."""
    transformer = remade("flux2_klein", joint_attention_dim=3 * WIDTH)
    return {"vae": flux2_vae(), "transformer": transformer, **one(text.qwen3(28))}


def hunyuan_video() -> Parts:
    """Llama and CLIP."""
    return {"vae": hunyuan_vae(), **one(text.llama()), **one(text.clip(), "_2")}


def cogvideox() -> Parts:
    """T5 with as many tokens as the pipeline asks for."""
    vae = network(
        "AutoencoderKLCogVideoX",
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=32,
        sample_width=32,
    )
    transformer = remade("cogvideox", max_text_seq_length=226)
    return {"vae": vae, "transformer": transformer, **one(text.t5())}


def ltx() -> Parts:
    """T5, and an autoencoder of 32 pixels to one."""
    vae = network(
        "AutoencoderKLLTXVideo",
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    return {"vae": vae, **one(text.t5())}


def ltx2() -> Parts:
    """Gemma 3, all of whose layers are read; a picture factor of 32; sound as a spectrogram."""
    vae = network(
        "AutoencoderKLLTX2Video",
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        decoder_spatial_padding_mode="zeros",  # a latent one wide has nothing to reflect
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    audio_vae = network(
        "AutoencoderKLLTX2Audio", base_channels=8, latent_channels=2, num_res_blocks=1, resolution=16, mel_bins=16
    )
    vocoder = diffusers.pipelines.ltx2.LTX2Vocoder(
        in_channels=2 * 16,
        hidden_channels=32,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3]],
    )
    layers = 2
    registers = {f"{stream}_connector_num_learnable_registers": 8 for stream in ("video", "audio")}
    tiny = build("ltx2").pipe.connectors
    connectors = type(tiny).from_config({**tiny.config, **registers, "text_proj_in_factor": layers + 1})
    sound = {"audio_vae": audio_vae, "vocoder": randomise(vocoder, 4)}
    return {"vae": vae, **sound, "connectors": randomise(connectors, 2), **one(text.gemma3(layers))}


def mochi() -> Parts:
    """T5 with as many tokens as the pipeline asks for, and as many latent channels."""
    vae = network(
        "AutoencoderKLMochi",
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    transformer = remade("mochi", in_channels=12, max_sequence_length=256)
    return {"vae": vae, "transformer": transformer, **one(text.t5())}


def wan() -> Parts:
    """UMT5."""
    return {"vae": tiny_wan_vae(), **one(text.t5(multilingual=True))}


def hunyuan_video_1_5() -> Parts:
    """Qwen 2.5 VL's tokens, and T5's for glyphs."""
    vae = network(
        "AutoencoderKLHunyuanVideo15",
        latent_channels=4,
        block_out_channels=(16, 16, 16, 16, 16),
        layers_per_block=1,
    )
    return {"vae": vae, **one(text.qwen2_5_words()), **one(text.byt5(), "_2")}


PARTS: dict[str, Callable[[], Parts]] = {
    "flux": flux,
    "flux_img2img": flux,
    "flux_fill": flux,
    "flux_control": flux,
    "flux_kontext": flux,
    "sd3": sd3,
    "sd3_5": sd3,
    "sdxl": sdxl,
    "qwen_image": qwen_image,
    "qwen_image_lightning": qwen_image,
    "pixart_sigma": pixart_sigma,
    "chroma": pixart_sigma,
    "sana": sana,
    "lumina2": lumina2,
    "z_image": z_image,
    "flux2_klein": flux2_klein,
    "hunyuan_video": hunyuan_video,
    "hunyuan_video_1_5": hunyuan_video_1_5,
    "cogvideox": cogvideox,
    "ltx": ltx,
    "ltx2": ltx2,
    "mochi": mochi,
    "wan": wan,
    "wan_2_2": wan,
}
WITH_ROW = PARTS | NEWEST_PARTS | SOUND_PARTS | PROCESSED | PROCESSED_NEWEST
# Those whose networks are in no table: classes, and all parts.
WITHOUT_ROW = SEPARATE | SOUND_SEPARATE | PROCESSED_SEPARATE


def kind_of(name: str) -> str:
    """The class of the pipeline called ``name``."""
    if name in WITHOUT_ROW:
        return WITHOUT_ROW[name][0]
    row, kind = SIBLINGS.get(name, (name, None))
    return kind or ROWS[row].kind


def whole(name: str) -> Any:
    """The pipeline called ``name`` with all its parts."""
    made = getattr(diffusers, kind_of(name))
    if "Modular" in kind_of(name):
        pipe = made()
        pipe.update_components(**WITHOUT_ROW[name][1]())
        return pipe
    if name in WITHOUT_ROW:
        return assemble(made, **WITHOUT_ROW[name][1]())
    tiny = build(SIBLINGS.get(name, (name,))[0]).pipe
    parts = {key: value for key, value in tiny.components.items() if value is not None}
    parts |= {"guider": tiny.guider} if hasattr(tiny, "guider") else {}
    others = {key: value for key, value in tiny.config.items() if key == "boundary_ratio"}
    return assemble(made, **{**parts, **others, **WITH_ROW[name]()})


def save(name: str, folder: Path) -> None:
    """Write the pipeline called ``name``."""
    whole(name).save_pretrained(str(folder))
