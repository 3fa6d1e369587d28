"""Fixtures of pipelines that no other fixture's components fit, most of them deprecated."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers

from benchmarks.sweep.own import ROOT, use_tests_of

FILE = "benchmarks/sweep/kept.py"
use_tests_of(ROOT)
text, newest, sounds, nets, parts = (
    importlib.import_module(f"tests.support.{name}")
    for name in ("folders_text", "folders_text_newest", "folders_sound", "networks", "parts")
)
WIDTH, randomise, picture = parts.WIDTH, parts.randomise, parts.pil_picture
Made = dict[str, Any]
STEPS, SIZE = 8, 32
PROMPT = {"prompt": "a red apple", "output_type": "np"}
SIZES = {"height": SIZE, "width": SIZE, "output_type": "np"}
UNSAFE = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
LEVELS = {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
EYE = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": WIDTH}


def encoded(pair: tuple[Any, Any]) -> Made:
    """A tokenizer and its encoder."""
    return {"tokenizer": pair[0], "text_encoder": pair[1]}


def deprecated(package: str, name: str) -> Any:
    """A class of a package of deprecated pipelines."""
    return getattr(importlib.import_module(f"diffusers.pipelines.deprecated.{package}"), name)


def stable_diffusion(**options: Any) -> Made:
    """Stable Diffusion's parts, and those in ``options``."""
    unet = randomise(nets.sd_model())
    usual = {"unet": unet, "vae": parts.tiny_vae(), "scheduler": nets.ddim(), **encoded(text.clip()), **UNSAFE}
    return {**usual, **options}


def other_channels(channels: int) -> Any:
    """An autoencoder of pictures with a number of channels."""
    config = {**parts.tiny_vae().config, "in_channels": channels, "out_channels": channels}
    return randomise(diffusers.AutoencoderKL.from_config({**config, "_use_default_values": []}), 3)


def eye() -> Any:
    """CLIP's configuration of a picture's encoder."""
    return transformers.CLIPVisionConfig(hidden_size=WIDTH, image_size=28, patch_size=14, **EYE)


def audio_ldm() -> Made:
    """One vector of text, which the U-Net adds to the timestep's; a spectrogram of 8 bins."""
    unet = diffusers.UNet2DConditionModel(
        **LEVELS,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        mid_block_type=None,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=16,
        class_embeddings_concat=True,
    )
    sizes = {"upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4], "resblock_kernel_sizes": [3]}
    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=8, upsample_initial_channel=8, resblock_dilation_sizes=[[1, 3]], normalize_before=False, **sizes
    )
    tokenizer, clap = newest.clap()
    encoder = randomise(transformers.ClapTextModelWithProjection(clap.config.text_config), 5)
    sound = {"vae": other_channels(1), "vocoder": randomise(transformers.SpeechT5HifiGan(config), 4)}
    return {"unet": randomise(unet), "scheduler": nets.ddim(), **sound, **encoded((tokenizer, encoder))}


def i2vgen_xl() -> Made:
    """A video from a picture, which CLIP sees."""
    unet = diffusers.I2VGenXLUNet(
        **LEVELS,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=WIDTH,
        num_attention_heads=2,
        attention_head_dim=8,
    )
    seeing = randomise(transformers.CLIPVisionModelWithProjection(eye()), 34)
    seen = {"image_encoder": seeing, "feature_extractor": newest.clip_pictures()}
    usual = stable_diffusion(unet=randomise(unet), **seen)
    return {name: part for name, part in usual.items() if name in seen or name not in UNSAFE}


def painted_by_example() -> Made:
    """A picture's features in place of a prompt's; mask and masked picture are further channels."""
    config = {**nets.sd_model().config, "in_channels": 9}
    unet = randomise(diffusers.UNet2DConditionModel.from_config(config))
    example = deprecated("paint_by_example.image_encoder", "PaintByExampleImageEncoder")(eye(), proj_size=WIDTH)
    usual = stable_diffusion(unet=unet, image_encoder=randomise(example, 5), feature_extractor=newest.clip_pictures())
    return {name: part for name, part in usual.items() if name not in ("tokenizer", "text_encoder")}


def versatile() -> Made:
    """A picture's features in place of a prompt's."""
    seeing = randomise(transformers.CLIPVisionModelWithProjection(eye()), 34)
    seen = {"image_encoder": seeing, "image_feature_extractor": newest.clip_pictures()}
    return {"image_unet": randomise(nets.sd_model()), "vae": parts.tiny_vae(), "scheduler": nets.ddim(), **seen}


def vq_diffusion() -> Made:
    """Tokens of a picture, of which a transformer makes some likelier at each step."""
    network = diffusers.Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_vector_embeds=17,
        sample_size=4,
        norm_num_groups=8,
        cross_attention_dim=WIDTH,
        num_layers=2,
        num_embeds_ada_norm=100,
        activation_fn="geglu-approximate",
    )
    guiding = deprecated("vq_diffusion.pipeline_vq_diffusion", "LearnedClassifierFreeSamplingEmbeddings")(
        learnable=True, hidden_size=WIDTH, length=77
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    codes = {"latent_channels": 3, "num_vq_embeddings": 16, "vq_embed_dim": 3}
    vqvae = diffusers.VQModel(block_out_channels=(8, 8), norm_num_groups=4, **blocks, **codes)
    networks = {"vqvae": randomise(vqvae, 3), "transformer": randomise(network)}
    scheduler = diffusers.VQDiffusionScheduler(num_vec_classes=17, num_train_timesteps=100)
    embeddings = {"learned_classifier_free_sampling_embeddings": randomise(guiding, 4)}
    return {**networks, **embeddings, "scheduler": scheduler, **encoded(text.clip())}


def drawn_over() -> Made:
    """A picture and its mask, as tensors in [0, 1]."""
    mask = torch.ones(1, 1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 0
    return {"image": torch.rand(1, 3, SIZE, SIZE), "mask_image": mask}


# Makers of the components, and of the arguments of a call. I2VGen-XL skips layers of CLIP only with transformers 4.
KEPT: dict[str, tuple[Callable[[], Made], Callable[[], Made]]] = {
    "AudioLDM2Pipeline": (sounds.audio_ldm2, lambda: {"prompt": "rain", "audio_length_in_s": 0.01}),
    "AudioLDMPipeline": (audio_ldm, lambda: {"prompt": "rain", "audio_length_in_s": 0.01}),
    "I2VGenXLPipeline": (
        i2vgen_xl,
        lambda: {**PROMPT, **SIZES, "image": picture(), "num_frames": 2, "clip_skip": None},
    ),
    "PaintByExamplePipeline": (painted_by_example, lambda: {"example_image": picture(), **drawn_over(), **SIZES}),
    "StableDiffusionAttendAndExcitePipeline": (
        stable_diffusion,
        lambda: {**PROMPT, **SIZES, "token_indices": [2, 3], "max_iter_to_alter": 0, "attn_res": (16, 16)},
    ),
    "StableDiffusionDiffEditPipeline": (
        lambda: stable_diffusion(inverse_scheduler=diffusers.DDIMInverseScheduler(clip_sample=False)),
        lambda: {
            **PROMPT,
            "mask_image": torch.ones(1, SIZE // 2, SIZE // 2),
            "image_latents": torch.randn(1, STEPS, 4, SIZE // 2, SIZE // 2),
            "inpaint_strength": 1.0,
        },
    ),
    "StableDiffusionLDM3DPipeline": (lambda: stable_diffusion(vae=other_channels(6)), lambda: {**PROMPT, **SIZES}),
    "VQDiffusionPipeline": (vq_diffusion, lambda: PROMPT),
    "VersatileDiffusionImageVariationPipeline": (versatile, lambda: {"image": picture(), **SIZES}),
}


class Case:
    """An entry of ``KEPT`` in the form of upstream's test classes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def pipeline_class(self, **components: Any) -> Any:
        """The pipeline; components that are not there are ``None``."""
        return parts.assemble(getattr(diffusers, self._name), **components)

    def get_dummy_components(self) -> Made:
        """The components."""
        torch.manual_seed(0)
        return KEPT[self._name][0]()

    def get_dummy_inputs(self, seed: int = 0) -> Made:
        """The arguments of a call."""
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        return {**KEPT[self._name][1](), "num_inference_steps": STEPS, "generator": generator}
