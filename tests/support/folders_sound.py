"""Parts of the folders of pipelines that draw sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import transformers
from torch import nn

from tests.support import folders_text as text
from tests.support import folders_text_newest as newest
from tests.support import networks as nets
from tests.support.folders_parts import Parts, network, one
from tests.support.pipelines import WIDTH, randomise

RATE = 16  # samples per second


def oobleck(channels: int, **options: Any) -> nn.Module:
    """An autoencoder of four samples to one."""
    return network(
        "AutoencoderOobleck",
        encoder_hidden_size=8,
        downsampling_ratios=[2, 2],
        channel_multiples=[1, 2],
        decoder_channels=4,
        decoder_input_channels=channels,
        sampling_rate=RATE,
        **options,
    )


def stable_audio() -> Parts:
    """T5."""
    tokenizer, encoder = text.t5()
    tokenizer.model_max_length = 64
    projection = nets.stable_audio_projection()
    scheduler = diffusers.CosineDPMSolverMultistepScheduler(sigma_schedule="exponential", sigma_data=1.0)
    parts = {"vae": oobleck(4), "projection_model": randomise(projection, 2), "scheduler": scheduler}
    return {**parts, **one((tokenizer, encoder))}


def stable_audio_3() -> Parts:
    """Gemma as an encoder, and an embedding of the length."""
    transformer = network(
        "StableAudio3DiTModel",
        io_channels=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        cond_token_dim=WIDTH,
        global_cond_dim=WIDTH,
        local_add_cond_dim=9,
        timestep_features_dim=16,
        ff_mult=2,
        num_memory_tokens=2,
        use_differential_attention=False,
    )
    vae = network(
        "AutoencoderSAME",
        patch_size=2,
        encoder_channels=8,
        encoder_c_mults=(2,),
        encoder_strides=(2,),
        encoder_transformer_depths=(1,),
        latent_dim=8,
        use_differential_attention=False,
        dim_heads=4,
        ff_mult=2,
        sampling_rate=RATE,
    )
    length = randomise(diffusers.StableAudio3DurationEmbedder(output_dim=WIDTH, fourier_dim=16), 2)
    scheduler = nets.flow(num_train_timesteps=1, shift=1.0)
    parts = {"transformer": transformer, "scheduler": scheduler, "vae": vae, "duration_embedder": length}
    return {**parts, **one(newest.t5_gemma("T5GemmaEncoderModel"))}


def audio_ldm2() -> Parts:
    """CLAP, which ranks what it hears; T5; GPT-2 on both; a spectrogram of 8 bins."""
    unet = network(
        "AudioLDM2UNet2DConditionModel",
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=((None, 16, WIDTH),) * 2,
        attention_head_dim=8,
    )
    vae = network(
        "AutoencoderKL",
        block_out_channels=(8, 16),
        in_channels=1,
        out_channels=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
    )
    vocoder = transformers.SpeechT5HifiGan(
        transformers.SpeechT5HifiGanConfig(
            model_in_dim=8,
            sampling_rate=16_000,
            upsample_initial_channel=8,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]],
            normalize_before=False,
        )
    )
    writer = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_head=2, n_layer=1, vocab_size=8, n_positions=128, max_new_tokens=4)
    )
    projection = diffusers.AudioLDM2ProjectionModel(
        text_encoder_dim=16, text_encoder_1_dim=WIDTH, langauge_model_dim=16
    )
    return {
        "unet": unet,
        "scheduler": nets.ddim(),
        "vae": vae,
        "vocoder": randomise(vocoder, 4),
        "language_model": randomise(writer, 5),
        "projection_model": randomise(projection, 6),
        "feature_extractor": transformers.ClapFeatureExtractor(feature_size=8, hop_length=7900),
        **one(newest.clap()),
        **one(text.t5(), "_2"),
    }


def ace_step() -> Parts:
    """Qwen 3, and encoders of text, lyrics and timbre."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    layers = {f"num_{part}_encoder_hidden_layers": 1 for part in ("lyric", "timbre")}
    condition = diffusers.pipelines.ace_step.AceStepConditionEncoder(
        **sizes, **layers, head_dim=16, text_hidden_dim=WIDTH, timbre_hidden_dim=8, sliding_window=8
    )
    transformer = network(
        "AceStepTransformer1DModel",
        num_hidden_layers=2,
        head_dim=16,
        in_channels=24,
        audio_acoustic_hidden_dim=8,
        sliding_window=8,
        **sizes,
    )
    return {
        "transformer": transformer,
        "condition_encoder": randomise(condition, 2),
        "vae": oobleck(8),
        "scheduler": nets.flow(num_train_timesteps=1, shift=1.0),
        **one(newest.qwen3_reading()),
    }


def longcat_audio() -> Parts:
    """UMT5."""
    transformer = network(
        "LongCatAudioDiTTransformer",
        dit_dim=32,
        dit_depth=2,
        dit_heads=2,
        dit_text_dim=WIDTH,
        latent_dim=8,
        text_conv=False,
    )
    vae = network(
        "LongCatAudioDiTVae",
        channels=8,
        c_mults=[1, 2],
        strides=[2],
        latent_dim=8,
        encoder_latent_dim=16,
        downsampling_ratio=2,
        sample_rate=RATE,
    )
    encoder = one(text.t5(multilingual=True))
    return {"transformer": transformer, "vae": vae, "scheduler": nets.flow(shift=1.0), **encoder}


SOUND_PARTS: dict[str, Callable[[], Parts]] = {"stable_audio": stable_audio}
SOUND_SEPARATE: dict[str, tuple[str, Callable[[], Parts]]] = {
    "stable_audio_3": ("StableAudio3Pipeline", stable_audio_3),
    "audio_ldm2": ("AudioLDM2Pipeline", audio_ldm2),
    "ace_step": ("AceStepPipeline", ace_step),
    "longcat_audio": ("LongCatAudioDiTPipeline", longcat_audio),
}
