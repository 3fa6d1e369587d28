"""Configurations of the tiny image pipelines' networks, and of all schedulers; calling one makes it."""

from __future__ import annotations

from functools import partial

import diffusers
from torch import nn

from tests.support.parts import WIDTH

HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
FOUR = {"in_channels": 4, "out_channels": 4}

flow = partial(diffusers.FlowMatchEulerDiscreteScheduler, shift=3.0)
dynamic = partial(flow, use_dynamic_shifting=True)
sdxl_euler = partial(diffusers.EulerDiscreteScheduler, beta_schedule="scaled_linear", timestep_spacing="leading")
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
unipc = partial(diffusers.UniPCMultistepScheduler, flow_shift=3.0, **_FLOW)
dpm_flow = partial(diffusers.DPMSolverMultistepScheduler, **_FLOW)
ddim = partial(diffusers.DDIMScheduler, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False)

_FLUX = {"num_layers": 1, "num_single_layers": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (4, 6, 6), **HEADS}
flux_model = partial(
    diffusers.FluxTransformer2DModel, in_channels=16, out_channels=16, pooled_projection_dim=WIDTH, **_FLUX
)
flux_control = partial(
    diffusers.FluxControlNetModel, in_channels=16, pooled_projection_dim=WIDTH, **{**_FLUX, "num_single_layers": 1}
)
chroma_model = partial(
    diffusers.ChromaTransformer2DModel,
    in_channels=16,
    approximator_num_channels=8,
    approximator_hidden_dim=16,
    approximator_layers=1,
    **_FLUX,
)
flux2_model = partial(
    diffusers.Flux2Transformer2DModel,
    in_channels=16,
    timestep_guidance_channels=16,
    **{**_FLUX, "axes_dims_rope": (4, 4, 4, 4)},
)
sd3_model = partial(
    diffusers.SD3Transformer2DModel,
    sample_size=8,
    num_layers=2,
    joint_attention_dim=WIDTH,
    caption_projection_dim=WIDTH,
    pooled_projection_dim=WIDTH,
    pos_embed_max_size=16,
    **FOUR,
    **HEADS,
)
sd3_model_16 = partial(sd3_model, in_channels=16, out_channels=16)
qwen_model = partial(
    diffusers.QwenImageTransformer2DModel,
    in_channels=16,
    out_channels=4,
    num_layers=2,
    joint_attention_dim=WIDTH,
    axes_dims_rope=(4, 6, 6),
    **HEADS,
)
_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": WIDTH,
    **FOUR,
}
sd_model = partial(
    diffusers.UNet2DConditionModel,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=2,
    **_UNET,
)
sdxl_model = partial(
    diffusers.UNet2DConditionModel,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(2, 4),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=48 + WIDTH,
    **_UNET,
)
dit_model = partial(
    diffusers.DiTTransformer2DModel,
    in_channels=4,
    out_channels=8,
    num_layers=2,
    sample_size=8,
    norm_num_groups=8,
    **HEADS,
)
pixart_model = partial(
    diffusers.PixArtTransformer2DModel,
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
sana_model = partial(
    diffusers.SanaTransformer2DModel,
    num_layers=2,
    num_cross_attention_heads=2,
    cross_attention_head_dim=16,
    cross_attention_dim=WIDTH,
    caption_channels=WIDTH,
    sample_size=8,
    **FOUR,
    **HEADS,
)
z_image_model = partial(
    diffusers.ZImageTransformer2DModel,
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
lumina2_model = partial(
    diffusers.Lumina2Transformer2DModel,
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
cogview4_model = partial(
    diffusers.CogView4Transformer2DModel,
    num_layers=2,
    text_embed_dim=WIDTH,
    time_embed_dim=16,
    condition_dim=8,
    sample_size=8,
    rope_axes_dim=(8, 8),
    **FOUR,
    **HEADS,
)
aura_flow_model = partial(
    diffusers.AuraFlowTransformer2DModel,
    sample_size=8,
    num_mmdit_layers=1,
    num_single_dit_layers=2,
    joint_attention_dim=WIDTH,
    caption_projection_dim=32,
    pos_embed_max_size=256,
    **HEADS,
)
hidream_model = partial(
    diffusers.HiDreamImageTransformer2DModel,
    patch_size=2,
    num_layers=1,
    num_single_layers=2,
    caption_channels=[WIDTH, WIDTH],
    text_emb_dim=WIDTH,
    axes_dims_rope=(4, 6, 6),
    max_resolution=(32, 32),
    llama_layers=[0, 1],
    force_inference_output=True,
    **FOUR,
    **HEADS,
)
hunyuan_image_model = partial(
    diffusers.HunyuanImageTransformer2DModel,
    num_layers=1,
    num_single_layers=2,
    num_refiner_layers=1,
    text_embed_dim=WIDTH,
    text_embed_2_dim=WIDTH,
    rope_axes_dim=(8, 8),
    **FOUR,
    **HEADS,
)
stable_audio_model = partial(
    diffusers.StableAudioDiTModel,
    sample_size=16,
    num_layers=2,
    num_key_value_attention_heads=1,
    cross_attention_dim=WIDTH,
    time_proj_dim=16,
    global_states_input_dim=2 * WIDTH,
    cross_attention_input_dim=WIDTH,
    **FOUR,
    **HEADS,
)


def stable_audio_projection() -> nn.Module:
    """Stable Audio's conditioner."""
    return diffusers.pipelines.stable_audio.StableAudioProjectionModel(
        text_encoder_dim=WIDTH, conditioning_dim=WIDTH, min_value=0, max_value=32
    )


def sdxl_control() -> nn.Module:
    """A ControlNet of SDXL's."""
    return diffusers.ControlNetModel.from_unet(sdxl_model(), conditioning_embedding_out_channels=(16, 32))


def sd3_control() -> nn.Module:
    """A ControlNet of Stable Diffusion 3's."""
    return diffusers.SD3ControlNetModel.from_transformer(
        sd3_model_16(), num_layers=2, num_extra_conditioning_channels=0, load_weights_from_transformer=False
    )
