"""The tiny pipelines that make images from words: those whose models other pipelines share."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import diffusers
import torch

from tests.support.pipelines import (
    ONE,
    TOKENS,
    TWO,
    UNNAMED,
    WIDTH,
    StandIn,
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


def flux_model(in_channels: int = 16) -> Any:
    """Flux's transformer."""
    return diffusers.FluxTransformer2DModel(
        in_channels=in_channels,
        out_channels=16,
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


def sd3_model(channels: int = 4, **options: Any) -> Any:
    """Stable Diffusion 3's transformer."""
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        num_layers=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=16,
        **HEADS,
        **options,
    )


def sd3(name: str = "sd3", **options: Any) -> TinyPipeline:
    """Stable Diffusion 3: guidance in one batch, no cache context, no begin index."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **pooled(batch), **square(size), **options))

    return make(name, "StableDiffusion3Pipeline", sd3_model(**options), flow(), call, UNNAMED, 64)


def sd3_5() -> TinyPipeline:
    """Stable Diffusion 3.5: normalised queries and keys, a second attention in the first blocks (medium)."""
    return sd3("sd3_5", qk_norm="rms_norm", dual_attention_layers=(0,))


def qwen_model() -> Any:
    """Qwen-Image's transformer."""
    return diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6), **HEADS
    )


def qwen_image(name: str = "qwen_image", scheduler: Any = None, **given: Any) -> TinyPipeline:
    """Qwen-Image: guidance in two calls with contexts."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        text = {**pair(batch), **masks(batch, "prompt_embeds_mask")}
        text = {name: value for name, value in text.items() if branches == TWO or "negative" not in name}
        return images(pipe(**text, **given, **square(size), **options))

    branches = ONE if given else TWO
    return make(name, "QwenImagePipeline", qwen_model(), scheduler or flow(), call, branches, 64)


def qwen_image_lightning() -> TinyPipeline:
    """Qwen-Image as its distillation to 8 steps runs it: no guidance, a shift that depends on nothing, exponential."""
    shift = {"base_shift": math.log(3), "max_shift": math.log(3), "time_shift_type": "exponential"}
    return qwen_image("qwen_image_lightning", flow(shift=1.0, use_dynamic_shifting=True, **shift), true_cfg_scale=1.0)


def sdxl_model(in_channels: int = 4) -> Any:
    """SDXL's U-Net."""
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
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


def sdxl_scheduler() -> Any:
    """Euler on a noise scale."""
    return diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading")


def sdxl() -> TinyPipeline:
    """SDXL: a U-Net, the timestep positional, Euler on a noise scale."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **pooled(batch), **square(size), **options))

    return make("sdxl", "StableDiffusionXLPipeline", sdxl_model(), sdxl_scheduler(), call, UNNAMED, 64)


def dit() -> TinyPipeline:
    """DiT: class labels, an output object, a scheduler without a step index."""
    model = diffusers.DiTTransformer2DModel(
        in_channels=4, out_channels=8, num_layers=2, sample_size=8, norm_num_groups=8, **HEADS
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(class_labels=list(range(batch)), output_type="np", **options))

    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    made = make("dit", "DiTPipeline", model, scheduler, call, UNNAMED, 16, vae=tiny_vae())
    made.fixed = ("size",)
    return made


def flux2_model() -> Any:
    """Flux 2's transformer."""
    return diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        **HEADS,
    )


def flux2() -> TinyPipeline:
    """Flux 2: one call, no context."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(prompt_embeds=embeds(batch, TOKENS, WIDTH), **square(size), **options))

    return make("flux2", "Flux2Pipeline", flux2_model(), flow(use_dynamic_shifting=True), call, UNNAMED, 64)


def flux2_klein() -> TinyPipeline:
    """Flux 2 Klein: guidance in two calls with contexts."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **square(size), **options))

    statistics = SimpleNamespace(running_mean=torch.zeros(16), running_var=torch.ones(16))
    vae = StandIn({"batch_norm_eps": 1e-4, "block_out_channels": (8,) * 4}, bn=statistics)
    scheduler = flow(use_dynamic_shifting=True)
    return make("flux2_klein", "Flux2KleinPipeline", flux2_model(), scheduler, call, TWO, 64, vae=vae)


def z_image_model() -> Any:
    """Z-Image's transformer."""
    return diffusers.ZImageTransformer2DModel(
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


def z_image() -> TinyPipeline:
    """Z-Image: lists of tensors in and out."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {name: list(value) for name, value in pair(batch).items()}
        return images(pipe(**given, **square(size), **options))

    return make("z_image", "ZImagePipeline", z_image_model(), flow(), call, UNNAMED, 64)


BUILDERS = {
    one.__name__: one
    for one in (flux, sd3, sd3_5, qwen_image, qwen_image_lightning, sdxl, dit, flux2, flux2_klein, z_image)
}
