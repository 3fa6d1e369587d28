"""Parts of the folders whose processors prepare pictures with torchvision."""

from __future__ import annotations

from collections.abc import Callable

import diffusers

from tests.support import folders_text as text
from tests.support import folders_text_newest as newest
from tests.support import networks as nets
from tests.support.folders_parts import Parts, flux2_vae, hunyuan_vae, network, one, picture_vae, qwen_vae, remade
from tests.support.pipelines import WIDTH, tiny_vae


def flux2() -> Parts:
    """Mistral 3, three of whose layers are stacked, and Pixtral's processor in place of a tokenizer."""
    transformer = remade("flux2", joint_attention_dim=3 * WIDTH)
    return {"vae": flux2_vae(), "transformer": transformer, **one(text.mistral3(30))}


def qwen_image_edit() -> Parts:
    """Qwen 2.5 VL, which sees the picture; 64 pixels per latent, as pictures have a megapixel."""
    processor, encoder = text.qwen2_5_seeing()
    return {"vae": qwen_vae(6, 2), **one((processor.tokenizer, encoder)), "processor": processor}


def kandinsky() -> Parts:
    """Qwen 2.5 VL's processor in place of a tokenizer, and CLIP."""
    return {**one(text.qwen2_5_seeing()), **one(text.clip(), "_2")}


def kandinsky5() -> Parts:
    """For a video."""
    return {"vae": hunyuan_vae(), **kandinsky()}


def kandinsky5_i2v() -> Parts:
    """For a video from its first frame."""
    return {"transformer": remade("kandinsky5", visual_cond=True), **kandinsky5()}


def kandinsky_5_t2i() -> Parts:
    """For a picture; the autoencoder has eight pixels per latent, as the pipeline assumes."""
    return {"vae": picture_vae(mid_block_add_attention=False), **kandinsky()}


def kandinsky_5_i2i() -> Parts:
    """For a picture from another."""
    return {"transformer": remade("kandinsky_5_t2i", visual_cond=True), **kandinsky_5_t2i()}


def kandinsky6() -> Parts:
    """As Kandinsky 5's, and a spectrogram's autoencoder with its vocoder."""
    audio_vae = network(
        "MMAudioVAE",
        mel_bins=8,
        latent_channels=4,
        hidden_channels=8,
        channel_multipliers=(1, 2),
        layers_per_block=1,
        sample_rate=960,
        n_fft=32,
        hop_length=16,
    )
    vocoder = network(
        "MMAudioVocoder",
        num_mels=8,
        upsample_initial_channel=8,
        upsample_rates=(4, 4),
        upsample_kernel_sizes=(8, 8),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
    )
    return {"audio_vae": audio_vae, "vocoder": vocoder, **kandinsky5()}


def longcat_image() -> Parts:
    """Qwen 2.5 VL, which also rewrites prompts."""
    processor, encoder = text.qwen2_5_seeing()
    return {"vae": tiny_vae(16), **one((processor.tokenizer, encoder)), "text_processor": processor}


def qwen_image_layered() -> Parts:
    """As Qwen-Image-Edit's; pictures have an alpha channel, and latents have more channels than pictures."""
    transformer = remade("qwen_image_layered", in_channels=32, out_channels=8)
    statistics = {"latents_mean": [0.1] * 8, "latents_std": [1.5] * 8}
    vae = qwen_vae(6, 2, input_channels=4, z_dim=8, **statistics)
    return {**qwen_image_edit(), "vae": vae, "transformer": transformer}


def qwen_image_2_1() -> Parts:
    """Qwen 3 VL, and an autoencoder of 16 pixels to one."""
    processor, encoder = newest.qwen3_seeing()
    vae = network(
        "AutoencoderKLQwenImage21",
        base_dim=4,
        decoder_base_dim=4,
        z_dim=16,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1] * 16,
        latents_std=[1.5] * 16,
    )
    return {"vae": vae, "processor": processor, "text_encoder": encoder}


def minimax_h3() -> Parts:
    """Qwen 3 VL, one of whose many layers is read; a video and its sound."""
    processor, encoder = newest.qwen3_seeing(51)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "num_refiner_layers": 1}
    widths = dict.fromkeys(("freq_dim", "time_embed_hidden_dim", "time_embed_dim"), 16)
    transformer = network(
        "MiniMaxH3Transformer3DModel",
        in_channels=4,
        audio_in_channels=4,
        text_dim=WIDTH,
        hidden_size=32,
        ffn_dim=32,
        rope_freq_dim=2,
        **sizes,
        **widths,
    )
    vae = network(
        "AutoencoderKLMiniMaxH3",
        latent_channels=4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        spatial_downsample_factors=(2, 2, 2, 2),
        temporal_downsample_factors=(1, 2, 2, 1),
        norm_num_groups=4,
        decoder_num_layers=1,
        decoder_num_attention_heads=2,
        decoder_attention_head_dim=8,
        decoder_num_register_tokens=2,
        decoder_ffn_mult=2,
        latents_mean=(0.1,) * 4,
        latents_std=(1.5,) * 4,
    )
    audio_vae = network(
        "AutoencoderKLMiniMaxH3Audio",
        encoder_dim=4,
        latent_dim=32,
        latent_channels=4,
        num_attention_heads=2,
        decoder_dim=128,
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
        latents_mean=(0.1,) * 4,
        latents_std=(1.5,) * 4,
    )
    schedulers = {name: diffusers.MiniMaxH3Scheduler() for name in ("scheduler", "audio_scheduler")}
    parts = {"transformer": transformer, "vae": vae, "audio_vae": audio_vae, "processor": processor, **schedulers}
    return {**parts, **one((processor.tokenizer, encoder))}


def omnigen() -> Parts:
    """No text encoder: the network reads the prompt's tokens."""
    tokenizer = text.llama_tokenizer()
    transformer = network(
        "OmniGenTransformer2DModel",
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        num_layers=2,
        time_step_dim=16,
        vocab_size=len(tokenizer),
        pad_token_id=0,
        rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
    )
    scheduler = nets.flow(shift=1.0, invert_sigmas=True, num_train_timesteps=1)
    return {"transformer": transformer, "scheduler": scheduler, "vae": picture_vae(), "tokenizer": tokenizer}


PROCESSED: dict[str, Callable[[], Parts]] = {
    "flux2": flux2,
    "qwen_image_edit": qwen_image_edit,
    "qwen_image_edit_plus": qwen_image_edit,
    "kandinsky5": kandinsky5,
    "kandinsky5_i2v": kandinsky5_i2v,
    "kandinsky_5_t2i": kandinsky_5_t2i,
    "kandinsky_5_i2i": kandinsky_5_i2i,
}
PROCESSED_NEWEST: dict[str, Callable[[], Parts]] = {
    "kandinsky_6": kandinsky6,
    "longcat_image": longcat_image,
    "qwen_image_layered": qwen_image_layered,
    "qwen_image_2_1": qwen_image_2_1,
}
PROCESSED_SEPARATE: dict[str, tuple[str, Callable[[], Parts]]] = {
    "omnigen": ("OmniGenPipeline", omnigen),
    "minimax_h3": ("MiniMaxH3ModularPipeline", minimax_h3),
}
# The same networks in pipelines that the tables have no row of.
SIBLINGS = {
    "kandinsky5_i2v": ("kandinsky5", "Kandinsky5I2VPipeline"),
    "kandinsky_5_i2i": ("kandinsky_5_t2i", "Kandinsky5I2IPipeline"),
}
