"""More tiny pipelines that make images, and sounds: evidence that no list of models decides."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from tests.pipelines import UNNAMED, UNNAMED_TWO, WIDTH, TinyPipeline, images, make, masks, pair, square
from tests.pipelines_image import HEADS, flow


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


BUILDERS = {one.__name__: one for one in (pixart_sigma, sana, chroma, lumina2)}
