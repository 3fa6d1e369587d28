"""The tiny pipelines that make images."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from tests.pipelines import (
    ONE,
    TOKENS,
    TWO,
    UNNAMED,
    UNNAMED_TWO,
    WIDTH,
    TinyPipeline,
    embeds,
    images,
    make,
    masks,
    pair,
    pooled,
    square,
    tiny_vae,
)

HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}


def flow(**options: Any) -> Any:
    """Flow matching with a shift that does not depend on the resolution."""
    return diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **options})


def flux_model() -> Any:
    """Flux's transformer."""
    return diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
        **HEADS,
    )


def flux() -> TinyPipeline:
    """Flux: tokens out, one call, shift that depends on the resolution."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {"prompt_embeds": embeds(batch, TOKENS, WIDTH), "pooled_prompt_embeds": embeds(batch, WIDTH)}
        return images(pipe(**given, **square(size), **options))

    return make("flux", "FluxPipeline", flux_model(), flow(use_dynamic_shifting=True), call, ONE, 64)


def sd3() -> TinyPipeline:
    """Stable Diffusion 3: guidance in one batch, no cache context, no begin index."""
    model = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=16,
        **HEADS,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **pooled(batch), **square(size), **options))

    return make("sd3", "StableDiffusion3Pipeline", model, flow(), call, UNNAMED, 64)


def qwen_image() -> TinyPipeline:
    """Qwen-Image: guidance in two calls with contexts."""
    model = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6), **HEADS
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **masks(batch, "prompt_embeds_mask"), **square(size), **options))

    return make("qwen_image", "QwenImagePipeline", model, flow(), call, TWO, 64)


def sdxl() -> TinyPipeline:
    """SDXL: a U-Net, the timestep positional, Euler on a noise scale."""
    model = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + WIDTH,
        cross_attention_dim=WIDTH,
    )
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading")

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **pooled(batch), **square(size), **options))

    return make("sdxl", "StableDiffusionXLPipeline", model, scheduler, call, UNNAMED, 64)


def dit() -> TinyPipeline:
    """DiT: class labels, an output object, a scheduler without a step index."""
    model = diffusers.DiTTransformer2DModel(
        in_channels=4, out_channels=8, num_layers=2, sample_size=8, norm_num_groups=8, **HEADS
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(class_labels=list(range(batch)), output_type="np", **options))

    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return make("dit", "DiTPipeline", model, scheduler, call, UNNAMED, 16, vae=tiny_vae())


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


def sana() -> TinyPipeline:
    """Sana: linear attention, DPM-Solver++ on flow sigmas."""
    model = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        sample_size=8,
        **HEADS,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {"negative_prompt": None, "use_resolution_binning": False, **pair(batch), **masks(batch)}
        return images(pipe(**given, **square(size), **options))

    return make("sana", "SanaPipeline", model, scheduler, call, UNNAMED, 256)


def flux2() -> TinyPipeline:
    """Flux 2: one call, no context."""
    model = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        **HEADS,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(prompt_embeds=embeds(batch, TOKENS, WIDTH), **square(size), **options))

    return make("flux2", "Flux2Pipeline", model, flow(use_dynamic_shifting=True), call, UNNAMED, 64)


def z_image() -> TinyPipeline:
    """Z-Image: lists of tensors in and out."""
    model = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[128, 32, 32],
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {name: list(value) for name, value in pair(batch).items()}
        return images(pipe(**given, **square(size), **options))

    return make("z_image", "ZImagePipeline", model, flow(), call, UNNAMED, 64)


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


BUILDERS = {
    one.__name__: one for one in (flux, sd3, qwen_image, sdxl, dit, pixart_sigma, sana, flux2, z_image, chroma, lumina2)
}
