"""Parts of the folders whose processors prepare pictures with torchvision."""

from __future__ import annotations

from collections.abc import Callable

from tests.support import folders_text as text
from tests.support.folders_parts import Parts, flux2_vae, hunyuan_vae, network, one, qwen_vae, remade
from tests.support.pipelines import WIDTH


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
    blocks = 4
    vae = network(
        "AutoencoderKL",
        block_out_channels=(4,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        norm_num_groups=2,
        layers_per_block=1,
        mid_block_add_attention=False,
    )
    return {"vae": vae, **kandinsky()}


def kandinsky_5_i2i() -> Parts:
    """For a picture from another."""
    return {"transformer": remade("kandinsky_5_t2i", visual_cond=True), **kandinsky_5_t2i()}


PROCESSED: dict[str, Callable[[], Parts]] = {
    "flux2": flux2,
    "qwen_image_edit": qwen_image_edit,
    "qwen_image_edit_plus": qwen_image_edit,
    "kandinsky5": kandinsky5,
    "kandinsky5_i2v": kandinsky5_i2v,
    "kandinsky_5_t2i": kandinsky_5_t2i,
    "kandinsky_5_i2i": kandinsky_5_i2i,
}
# The same networks in pipelines that the tables have no row of.
SIBLINGS = {
    "kandinsky5_i2v": ("kandinsky5", "Kandinsky5I2VPipeline"),
    "kandinsky_5_i2i": ("kandinsky_5_t2i", "Kandinsky5I2IPipeline"),
}
