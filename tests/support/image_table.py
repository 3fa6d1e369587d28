"""The table of tiny image pipelines: one row each."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import diffusers
import torch

from tests.support import networks as nets
from tests.support.parts import TOKENS, WIDTH, StandIn, StandInEncoder, embeds, masks, pil_picture, randomise, tiny_vae
from tests.support.pipeline_row import (
    GUIDER,
    ONE,
    TWO,
    UNNAMED_TWO,
    Inputs,
    Row,
    inpainted,
    shown,
    text,
    text_flux,
    text_hidream,
    text_lists,
    text_masked,
    text_pooled,
    text_positive,
    text_twice,
)

NO_SIZE, NO_BATCH = {"fixed": ("size",)}, {"fixed": ("batch",)}
VAE, VAE_16 = {"vae": tiny_vae}, {"vae": partial(tiny_vae, 16)}
PLAIN = {"negative_prompt": None, "use_resolution_binning": False}
LIGHTNING = {"base_shift": math.log(3), "max_shift": math.log(3), "time_shift_type": "exponential"}
DPM = diffusers.DPMSolverMultistepScheduler

# Tokens out, one call, a shift that depends on the resolution.
FLUX = Row("FluxPipeline", nets.flux_model, nets.dynamic, (text_flux,), 64, ONE)
# Guidance in one batch, no cache context, no begin index.
SD3 = Row("StableDiffusion3Pipeline", nets.sd3_model, nets.flow, (text_pooled,), 64)
SD3_16 = replace(SD3, model=nets.sd3_model_16, components=VAE_16)
# Guidance in two calls with contexts.
QWEN = Row("QwenImagePipeline", nets.qwen_model, nets.flow, (partial(text_masked, name="prompt_embeds_mask"),), 64, TWO)
# The reference's tokens follow the picture's own, and are cut off its output.
QWEN_EDIT = replace(
    QWEN,
    kind="QwenImageEditPipeline",
    inputs=(*QWEN.inputs, lambda *_: {"image": [pil_picture()]}),
    size=256,
    components={"vae": partial(StandInEncoder, 4, 6)},
)
# A U-Net, the timestep positional, Euler on a noise scale.
SDXL = Row("StableDiffusionXLPipeline", nets.sdxl_model, nets.sdxl_euler, (text_pooled,), 64)
SDXL_PICTURE = replace(SDXL, components={**VAE, "requires_aesthetics_score": False})
# Lists of tensors in and out.
Z_IMAGE = Row("ZImagePipeline", nets.z_image_model, nets.flow, (text_lists,), 64)
KLEIN_VAE = StandIn(
    {"batch_norm_eps": 1e-4, "block_out_channels": (8,) * 4},
    bn=SimpleNamespace(running_mean=torch.zeros(16), running_var=torch.ones(16)),
)
AUDIO_VAE = StandIn({"sampling_rate": 16, "audio_channels": 2}, hop_length=4, sampling_rate=16)


def _flux(kind: str, *inputs: Inputs, channels: int = 16) -> Row:
    """Flux with a picture, concatenated in channels or in tokens."""
    return Row(
        kind, partial(nets.flux_model, in_channels=channels), nets.dynamic, (text_flux, *inputs), 16, components=VAE
    )


def _with(row: Row, kind: str, control: Any, name: str, **changes: Any) -> Row:
    """The row's network with a ControlNet, which runs at every step next to it."""
    components = {**VAE, **row.components, "controlnet": lambda: randomise(control(), 4)}
    return replace(
        row,
        kind=kind,
        inputs=(*row.inputs, shown(name)),
        size=16,
        branches=("call 1",),
        components=components,
        **changes,
    )


IMAGES: dict[str, Row] = {
    "flux": FLUX,
    "flux_img2img": _flux("").begun("FluxImg2ImgPipeline", shown()),
    "flux_inpaint": _flux("").begun("FluxInpaintPipeline", inpainted),
    "flux_fill": _flux("FluxFillPipeline", inpainted, channels=48),
    "flux_control": _flux("FluxControlPipeline", shown("control_image"), channels=32),
    "flux_kontext": _flux(
        "FluxKontextPipeline", shown(), lambda _, size: {"_auto_resize": False, "max_area": size * size}
    ),
    # One call, no cache context.
    "flux2": Row(
        "Flux2Pipeline",
        nets.flux2_model,
        nets.dynamic,
        (lambda batch, _: {"prompt_embeds": embeds(batch, TOKENS, WIDTH)},),
        64,
    ),
    # Guidance in two calls with contexts.
    "flux2_klein": Row("Flux2KleinPipeline", nets.flux2_model, nets.dynamic, (text,), 64, TWO, {"vae": KLEIN_VAE}),
    "sd3": SD3,
    # Normalised queries and keys, a second attention in the first blocks (medium).
    "sd3_5": replace(SD3, model=partial(nets.sd3_model, qk_norm="rms_norm", dual_attention_layers=(0,))),
    "sd3_img2img": SD3_16.begun("StableDiffusion3Img2ImgPipeline", shown()),
    "sd3_inpaint": SD3_16.begun("StableDiffusion3InpaintPipeline", inpainted),
    "qwen_image": QWEN,
    # As its distillation to 8 steps runs it: no guidance, a shift that depends on nothing, exponential.
    "qwen_image_lightning": replace(
        QWEN,
        scheduler=partial(nets.dynamic, shift=1.0, **LIGHTNING),
        inputs=(text_positive, {"true_cfg_scale": 1.0}),
        branches=ONE,
    ),
    "qwen_image_img2img": QWEN.begun(
        "QwenImageImg2ImgPipeline", shown(), components={"vae": partial(StandInEncoder, 4, 1)}
    ),
    "qwen_image_edit": QWEN_EDIT,
    "qwen_image_edit_plus": replace(
        QWEN_EDIT,
        kind="QwenImageEditPlusPipeline",
        inputs=(*QWEN.inputs, lambda *_: {"image": [pil_picture()] * 2}),
        more=NO_BATCH,
    ),
    "sdxl": SDXL,
    "sdxl_img2img": replace(
        SDXL_PICTURE.begun("StableDiffusionXLImg2ImgPipeline", shown(), {"output_type": "latent"}), sized=False
    ),
    # Mask and masked picture as 5 more channels.
    "sdxl_inpaint": SDXL_PICTURE.begun(
        "StableDiffusionXLInpaintPipeline", inpainted, model=partial(nets.sdxl_model, in_channels=9)
    ),
    # Class labels, an output object, a scheduler without a step index.
    "dit": Row(
        "DiTPipeline",
        nets.dit_model,
        partial(diffusers.DDIMScheduler, clip_sample=False),
        (lambda batch, _: {"class_labels": list(range(batch)), "output_type": "np"},),
        16,
        components=VAE,
        more=NO_SIZE,
        sized=False,
    ),
    # Learned variance, DPM-Solver++.
    "pixart_sigma": Row("PixArtSigmaPipeline", nets.pixart_model, DPM, (PLAIN, text_masked), 64),
    # Linear attention, DPM-Solver++ on flow sigmas.
    "sana": Row("SanaPipeline", nets.sana_model, partial(nets.dpm_flow, flow_shift=3.0), (PLAIN, text_masked), 256),
    "z_image": Z_IMAGE,
    "z_image_img2img": Z_IMAGE.begun("ZImageImg2ImgPipeline", shown(), components=VAE),
    # Two calls without a context.
    "chroma": Row(
        "ChromaPipeline",
        nets.chroma_model,
        nets.flow,
        (partial(text_masked, dtype=torch.float32),),
        64,
        UNNAMED_TWO,
    ),
    # The timestep is 1 - t / 1000, two calls without a context.
    "lumina2": Row("Lumina2Pipeline", nets.lumina2_model, nets.flow, (text_masked,), 64, UNNAMED_TWO),
    # Guidance in two calls, contexts, timesteps in whole numbers.
    "cogview4": Row(
        "CogView4Pipeline", nets.cogview4_model, partial(nets.dynamic, time_shift_type="linear"), (text,), 64, TWO
    ),
    # Joint blocks, then single ones, guidance in one batch.
    "aura_flow": Row("AuraFlowPipeline", nets.aura_flow_model, nets.flow, (text_masked,), 64),
    # Experts chosen per token, one embedding per layer; every picture is scaled to one number of pixels.
    "hidream": Row(
        "HiDreamImagePipeline",
        nets.hidream_model,
        nets.flow,
        (text_hidream,),
        64,
        more=NO_SIZE,
        attributes={"default_sample_size": 8},
    ),
    # A guider that projects, with other names for contexts.
    "hunyuan_image": Row(
        "HunyuanImagePipeline",
        nets.hunyuan_image_model,
        nets.flow,
        (text_twice,),
        128,
        GUIDER,
        {"guider": partial(diffusers.ClassifierFreeGuidance, guidance_scale=3.5)},
    ),
    # A U-Net that predicts noise, DDIM.
    "stable_diffusion": Row("StableDiffusionPipeline", nets.sd_model, nets.ddim, (text,), 64),
    # Sound, tokens of its length before it, DPM-Solver++ with cosine noise levels.
    "stable_audio": Row(
        "StableAudioPipeline",
        nets.stable_audio_model,
        nets.dpm_flow,
        (text, lambda batch, _: masks(batch, "attention_mask"), {"audio_end_in_s": 2.0, "output_type": "latent"}),
        1,
        components={"vae": AUDIO_VAE, "projection_model": lambda: randomise(nets.stable_audio_projection(), 2)},
        output=lambda result: result.audios,
        more=NO_SIZE,
        sized=False,
    ),
    "flux_controlnet": _with(FLUX, "FluxControlNetPipeline", nets.flux_control, "control_image"),
}

# Rows that single tests build: not in the suites over all pipelines.
FURTHER: dict[str, Row] = {
    # Inpainting by blending latents.
    "sdxl_inpaint_blended": SDXL_PICTURE.begun("StableDiffusionXLInpaintPipeline", inpainted),
    # The ControlNet's outputs are added to the U-Net's skip connections.
    "sdxl_controlnet": _with(SDXL, "StableDiffusionXLControlNetPipeline", nets.sdxl_control, "image"),
    # The ControlNet's outputs are added between the blocks; the picture's latents are drawn without the generator.
    "sd3_controlnet": _with(SD3_16, "StableDiffusion3ControlNetPipeline", nets.sd3_control, "control_image", seed=0),
}
