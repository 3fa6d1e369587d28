"""The tiny pipelines that take a picture: image to image, inpainting, control, reference."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from tests.support.pipelines import (
    ONE,
    TOKENS,
    TWO,
    UNNAMED,
    WIDTH,
    StandIn,
    TinyPipeline,
    embeds,
    frames,
    images,
    make,
    masks,
    pair,
    picture,
    pooled,
    randomise,
    square,
    tiny_vae,
)
from tests.support.pipelines_image import (
    HEADS,
    flow,
    flux_model,
    qwen_model,
    sd3_model,
    sdxl_model,
    sdxl_scheduler,
    z_image_model,
)
from tests.support.pipelines_video import tiny_wan_vae, unipc, wan_model, wan_vace_model

STRENGTH = 0.5


def hole(size: int) -> Tensor:
    """A mask: the upper half is to be drawn anew."""
    mask = torch.zeros(1, 1, size, size)
    mask[:, :, : size // 2] = 1.0
    return mask


def _flux(
    kind: str, channels: int = 16, first: str = "image", *, mask: bool = False, strength: float | None = None
) -> TinyPipeline:
    """Flux with a picture: concatenated in channels or in tokens, or as where the run begins."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {
            "prompt_embeds": embeds(batch, TOKENS, WIDTH),
            "pooled_prompt_embeds": embeds(batch, WIDTH),
            first: picture(size),
        }
        given |= {"mask_image": hole(size)} if mask else {}
        given |= {"strength": strength} if strength else {}
        given |= {"_auto_resize": False, "max_area": size * size} if kind == "FluxKontextPipeline" else {}
        return images(pipe(**given, **square(size), **options))

    name = kind.removesuffix("Pipeline").replace("Flux", "flux_").lower()
    branches = ONE if kind == "FluxPipeline" else UNNAMED
    scheduler = flow(use_dynamic_shifting=True)
    made = make(name, kind, flux_model(channels), scheduler, call, branches, 16, vae=tiny_vae())
    made.strength = strength
    return made


def qwen_image_img2img() -> TinyPipeline:
    """Qwen-Image begun from a picture."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), **masks(batch, "prompt_embeds_mask"), "image": picture(size), "strength": STRENGTH}
        return images(pipe(**given, **square(size), **options))

    components = {"vae": StandInEncoder(4, 1)}
    made = make("qwen_image_img2img", "QwenImageImg2ImgPipeline", qwen_model(), flow(), call, TWO, 16, **components)
    made.strength = STRENGTH
    return made


class StandInEncoder(StandIn):
    """Stands for Qwen-Image's autoencoder: the means of patches, in as many channels as asked.

    The pipelines bring every picture to a million pixels; an encoder of random weights would take seconds.
    """

    def __init__(self, channels: int, halvings: int) -> None:
        config = {"z_dim": channels, "latents_mean": [0.1] * channels, "latents_std": [1.5] * channels}
        super().__init__(config, z_dim=channels, temperal_downsample=[False] * halvings)

    def encode(self, pixels: Tensor) -> Any:
        """Shape (B, 3, 1, H, W) to latents of shape (B, C, 1, H / 2^n, W / 2^n)."""
        patch = 2 ** len(self.temperal_downsample)
        means = nn.functional.avg_pool3d(pixels, (1, patch, patch))
        channels = torch.arange(1, self.config.z_dim + 1).view(1, -1, 1, 1, 1)
        return SimpleNamespace(latents=means.mean(1, keepdim=True) * channels)


def _qwen_image_edit(kind: str, references: int) -> TinyPipeline:
    """Qwen-Image with reference pictures: their tokens follow the picture's own, and are cut off its output."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        from PIL import Image

        one = Image.fromarray((255 * picture(32)[0].permute(1, 2, 0).numpy()).astype("uint8"))
        given = {**pair(batch), **masks(batch, "prompt_embeds_mask"), "image": [one] * references}
        return images(pipe(**given, **square(size), **options))

    name = {"QwenImageEditPipeline": "qwen_image_edit", "QwenImageEditPlusPipeline": "qwen_image_edit_plus"}[kind]
    made = make(name, kind, qwen_model(), flow(), call, TWO, 256, vae=StandInEncoder(4, 6))
    made.fixed = ("batch",) if references > 1 else ()
    return made


def _sd3(kind: str, *, mask: bool) -> TinyPipeline:
    """Stable Diffusion 3 begun from a picture."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), **pooled(batch), "image": picture(size), "strength": STRENGTH}
        given |= {"mask_image": hole(size)} if mask else {}
        return images(pipe(**given, **square(size), **options))

    name = "sd3_inpaint" if mask else "sd3_img2img"
    made = make(name, kind, sd3_model(16), flow(), call, UNNAMED, 16, vae=tiny_vae(16))
    made.strength = STRENGTH
    return made


def _sdxl(kind: str, *, mask: bool, channels: int = 4) -> TinyPipeline:
    """SDXL begun from a picture; inpainting with mask and masked picture as 5 channels more, or by blending latents."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), **pooled(batch), "image": picture(size), "strength": STRENGTH, "output_type": "latent"}
        given |= {"mask_image": hole(size), **square(size)} if mask else {}
        return images(pipe(**given, **options))

    name = "sdxl_inpaint" if mask else "sdxl_img2img"
    components = {"vae": tiny_vae(), "requires_aesthetics_score": False}
    made = make(name, kind, sdxl_model(channels), sdxl_scheduler(), call, UNNAMED, 16, **components)
    made.strength = STRENGTH
    return made


def z_image_img2img() -> TinyPipeline:
    """Z-Image begun from a picture."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {name: list(value) for name, value in pair(batch).items()}
        given |= {"image": picture(size), "strength": STRENGTH}
        return images(pipe(**given, **square(size), **options))

    made = make("z_image_img2img", "ZImageImg2ImgPipeline", z_image_model(), flow(), call, UNNAMED, 16, vae=tiny_vae())
    made.strength = STRENGTH
    return made


def wan_i2v() -> TinyPipeline:
    """Wan image to video: the first frame's latents and a mask as channels of their own."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {**pair(batch), "image": picture(size), "num_frames": 5}
        return frames(pipe(**given, **square(size), **options))

    model = wan_model(in_channels=12)
    return make("wan_i2v", "WanImageToVideoPipeline", model, unipc(), call, TWO, 32, vae=tiny_wan_vae())


def wan_vace() -> TinyPipeline:
    """Wan VACE: a second stack of blocks adds what the control video says."""

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return frames(pipe(**pair(batch), num_frames=5, **square(size), **options))

    made = make("wan_vace", "WanVACEPipeline", wan_vace_model(), unipc(), call, TWO, 32, vae=tiny_wan_vae())
    made.fixed = ("batch",)
    return made


def flux_controlnet() -> TinyPipeline:
    """Flux with a ControlNet, which runs at every step beside the denoiser."""
    control = diffusers.FluxControlNetModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
        **HEADS,
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        given = {"prompt_embeds": embeds(batch, TOKENS, WIDTH), "pooled_prompt_embeds": embeds(batch, WIDTH)}
        return images(pipe(**given, control_image=picture(size), **square(size), **options))

    components = {"vae": tiny_vae(), "controlnet": randomise(control, 4)}
    scheduler = flow(use_dynamic_shifting=True)
    kind = "FluxControlNetPipeline"
    return make("flux_controlnet", kind, flux_model(), scheduler, call, UNNAMED, 16, **components)


def sdxl_controlnet() -> TinyPipeline:
    """SDXL with a ControlNet: what it gives is added to the U-Net's skip connections."""
    control = diffusers.ControlNetModel.from_unet(sdxl_model(), conditioning_embedding_out_channels=(16, 32))

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        return images(pipe(**pair(batch), **pooled(batch), image=picture(size), **square(size), **options))

    components = {"vae": tiny_vae(), "controlnet": randomise(control, 4)}
    kind = "StableDiffusionXLControlNetPipeline"
    return make("sdxl_controlnet", kind, sdxl_model(), sdxl_scheduler(), call, UNNAMED, 16, **components)


def sd3_controlnet() -> TinyPipeline:
    """Stable Diffusion 3 with a ControlNet: what it gives is added between the blocks."""
    control = diffusers.SD3ControlNetModel.from_transformer(
        sd3_model(16), num_layers=2, num_extra_conditioning_channels=0, load_weights_from_transformer=False
    )

    def call(pipe: Any, batch: int, size: int, **options: Any) -> Any:
        torch.manual_seed(0)  # the picture's latents are drawn without the generator
        return images(pipe(**pair(batch), **pooled(batch), control_image=picture(size), **square(size), **options))

    components = {"vae": tiny_vae(16), "controlnet": randomise(control, 4)}
    kind = "StableDiffusion3ControlNetPipeline"
    return make("sd3_controlnet", kind, sd3_model(16), flow(), call, UNNAMED, 16, **components)


BUILDERS = {
    "flux_img2img": partial(_flux, "FluxImg2ImgPipeline", strength=STRENGTH),
    "flux_inpaint": partial(_flux, "FluxInpaintPipeline", mask=True, strength=STRENGTH),
    "flux_fill": partial(_flux, "FluxFillPipeline", 48, mask=True),
    "flux_control": partial(_flux, "FluxControlPipeline", 32, "control_image"),
    "flux_kontext": partial(_flux, "FluxKontextPipeline"),
    "qwen_image_img2img": qwen_image_img2img,
    "qwen_image_edit": partial(_qwen_image_edit, "QwenImageEditPipeline", 1),
    "qwen_image_edit_plus": partial(_qwen_image_edit, "QwenImageEditPlusPipeline", 2),
    "sd3_img2img": partial(_sd3, "StableDiffusion3Img2ImgPipeline", mask=False),
    "sd3_inpaint": partial(_sd3, "StableDiffusion3InpaintPipeline", mask=True),
    "sdxl_img2img": partial(_sdxl, "StableDiffusionXLImg2ImgPipeline", mask=False),
    "sdxl_inpaint": partial(_sdxl, "StableDiffusionXLInpaintPipeline", mask=True, channels=9),
    "sdxl_inpaint_blended": partial(_sdxl, "StableDiffusionXLInpaintPipeline", mask=True),
    "z_image_img2img": z_image_img2img,
    "wan_i2v": wan_i2v,
    "wan_vace": wan_vace,
    "flux_controlnet": flux_controlnet,
    "sdxl_controlnet": sdxl_controlnet,
    "sd3_controlnet": sd3_controlnet,
}
