"""More tiny pipelines that make images, and sounds: evidence that no list of models decides."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from tests.support.pipelines import (
    TOKENS,
    TWO,
    UNNAMED,
    UNNAMED_TWO,
    WIDTH,
    StandIn,
    TinyPipeline,
    embeds,
    frames,
    images,
    make,
    masks,
    pair,
    pooled,
    randomise,
    square,
)
from tests.support.pipelines_image import HEADS, flow


def pixart_sigma() -> TinyPipeline:
    """PixArt-Sigma: learned variance, DPM-Solver++."""
    model = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        norm_num_groups=8,
        use_additional_conditions=False,
        **HEADS,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {"negative_prompt": None, "use_resolution_binning": False, **pair(batch), **masks(batch)}
        return images(pipe(**given, **square(size), **options))

    scheduler = diffusers.DPMSolverMultistepScheduler()
    return make("pixart_sigma", "PixArtSigmaPipeline", model, scheduler, call, UNNAMED, 64)


def sana_transformer(**more: Any) -> Any:
    """A tiny transformer of Sana's."""
    return diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        sample_size=8,
        **HEADS,
        **more,
    )


def sana() -> TinyPipeline:
    """Sana: linear attention, DPM-Solver++ on flow sigmas."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {"negative_prompt": None, "use_resolution_binning": False, **pair(batch), **masks(batch)}
        return images(pipe(**given, **square(size), **options))

    return make("sana", "SanaPipeline", sana_transformer(), scheduler, call, UNNAMED, 256)


def chroma() -> TinyPipeline:
    """Chroma: two calls without a context."""
    model = diffusers.ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
        **HEADS,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **masks(batch, dtype=torch.float32), **square(size), **options))

    return make("chroma", "ChromaPipeline", model, flow(), call, UNNAMED_TWO, 64)


def lumina2() -> TinyPipeline:
    """Lumina 2: the timestep is 1 - t / 1000, two calls without a context."""
    model = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=32,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(128, 32, 32),
        cap_feat_dim=WIDTH,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **masks(batch), **square(size), **options))

    return make("lumina2", "Lumina2Pipeline", model, flow(), call, UNNAMED_TWO, 64)


def cogview4() -> TinyPipeline:
    """CogView 4: guidance in two calls, contexts, timesteps in whole numbers."""
    model = diffusers.CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        text_embed_dim=WIDTH,
        time_embed_dim=16,
        condition_dim=8,
        sample_size=8,
        rope_axes_dim=(8, 8),
        **HEADS,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **square(size), **options))

    scheduler = flow(use_dynamic_shifting=True, time_shift_type="linear")
    return make("cogview4", "CogView4Pipeline", model, scheduler, call, TWO, 64)


def aura_flow() -> TinyPipeline:
    """AuraFlow: joint blocks, then single ones, guidance in one batch."""
    model = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=32,
        pos_embed_max_size=256,
        **HEADS,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **masks(batch), **square(size), **options))

    return make("aura_flow", "AuraFlowPipeline", model, flow(), call, UNNAMED, 64)


def hidream() -> TinyPipeline:
    """HiDream: experts chosen token by token, one embedding a layer."""
    model = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=2,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
        max_resolution=(32, 32),
        llama_layers=[0, 1],
        force_inference_output=True,
        **HEADS,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given: dict[str, Any] = pooled(batch)
        for prefix, seed in (("", 7), ("negative_", 8)):
            given[f"{prefix}prompt_embeds_t5"] = embeds(batch, TOKENS, WIDTH, seed=seed)
            given[f"{prefix}prompt_embeds_llama3"] = embeds(3, batch, TOKENS, WIDTH, seed=seed)
        return images(pipe(**given, **square(size), **options))

    made = make("hidream", "HiDreamImagePipeline", model, flow(), call, UNNAMED, 64)
    made.pipe.default_sample_size, made.fixed = 8, ("size",)  # every picture is brought to one number of pixels
    return made


def hunyuan_image() -> TinyPipeline:
    """HunyuanImage 2.1: a guider that projects, contexts of its own names."""
    model = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        rope_axes_dim=(8, 8),
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), **masks(batch, "prompt_embeds_mask", torch.int64)}
        given |= {f"{name}_2": value for name, value in given.items()}
        return images(pipe(**given, **square(size), **options))

    guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.5)
    branches = ("pred_cond", "pred_uncond")
    return make("hunyuan_image", "HunyuanImagePipeline", model, flow(), call, branches, 128, guider=guider)


def stable_diffusion() -> TinyPipeline:
    """Stable Diffusion 1.5: a U-Net that predicts noise, DDIM."""
    model = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=8,
        cross_attention_dim=WIDTH,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **square(size), **options))

    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False)
    return make("stable_diffusion", "StableDiffusionPipeline", model, scheduler, call, UNNAMED, 64)


def stable_audio() -> TinyPipeline:
    """Stable Audio: sound, tokens of its length before it, DPM-Solver++ with cosine noise levels."""
    model = diffusers.StableAudioDiTModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=WIDTH,
        time_proj_dim=16,
        global_states_input_dim=2 * WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    conditioner = diffusers.pipelines.stable_audio.StableAudioProjectionModel(
        text_encoder_dim=WIDTH, conditioning_dim=WIDTH, min_value=0, max_value=32
    )
    vae = StandIn({"sampling_rate": 16, "audio_channels": 2}, hop_length=4, sampling_rate=16)

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), "audio_end_in_s": 2.0, "output_type": "latent"}
        for prefix in ("", "negative_"):
            given[f"{prefix}attention_mask"] = torch.ones(batch, TOKENS, dtype=torch.long)
        return pipe(**given, **options).audios

    components = {"vae": vae, "projection_model": randomise(conditioner, 2)}
    scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    made = make("stable_audio", "StableAudioPipeline", model, scheduler, call, UNNAMED, 1, **components)
    made.fixed = ("size",)
    return made


def skyreels_v2() -> TinyPipeline:
    """SkyReels V2: Wan's kin, with its own names for the branches."""
    model = diffusers.SkyReelsV2Transformer3DModel(
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

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return frames(pipe(**pair(batch), num_frames=5, **square(size), **options))

    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return make("skyreels_v2", "SkyReelsV2Pipeline", model, scheduler, call, TWO, 32)


_IMAGES = (pixart_sigma, sana, chroma, lumina2, cogview4, aura_flow, hidream, hunyuan_image, stable_diffusion)
BUILDERS = {one.__name__: one for one in (*_IMAGES, stable_audio, skyreels_v2)}
