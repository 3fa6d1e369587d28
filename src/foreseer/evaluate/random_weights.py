"""The published architectures with random weights: what they cost is real, what they draw is not.

No network and no files: transformers are built from configuration, text encoders and decoder are left out, and a
prompt's embedding is random numbers that depend on its words only. Latency, FLOPs and memory of the denoising loop are
those of the released model; fidelity means nothing.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from foreseer.errors import ForeseerError, in_one_line
from foreseer.evaluate.random_models import RANDOM_MODELS, Output, RandomModel
from foreseer.forecast import L2P

Scale = Literal["full", "small"]
SCALES: tuple[Scale, ...] = ("full", "small")
NAMES: tuple[str, ...] = tuple(RANDOM_MODELS)
TEXT_WIDTHS = ("joint_attention_dim", "text_embed_dim", "text_dim")


class RandomWeightsError(ForeseerError, ValueError):
    """No such architecture, or it does not fit the device."""


@dataclass(frozen=True)
class RandomPipeline:
    """A pipeline to call with a prompt and ``options``; nothing but latents can come out of it.

    Attributes:
        name: the model's.
        title: what tables print.
        scale: ``"full"`` or ``"small"``.
        pipe: diffusers' pipeline.
        options: of its call: size, frames, guidance, ``output_type="latent"``.
        parameters: how many numbers the denoiser has.
    """

    name: str
    title: str
    scale: Scale
    pipe: Any
    options: Mapping[str, Any]
    parameters: int

    @property
    def note(self) -> str:
        """The sentence that belongs under every table of its figures."""
        size = "real size" if self.scale == "full" else "small size"
        return (
            f"{self.title}'s architecture at {size} ({self.parameters / 1e9:.3g} billion parameters) with random "
            "weights, text encoders and decoder left out: latency, FLOPs and memory only; fidelity is not shown."
        )


def random_pipeline(
    name: str,
    scale: Scale = "full",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> RandomPipeline:
    """Build the pipeline called ``name`` from its released configuration, with random weights, on ``device``.

    Args:
        name: one of ``NAMES``.
        scale: ``"full"``: every layer at its real width, at the published size of picture or video. ``"small"``: the
            same architecture with few layers and heads, for a CPU.
        device: by default the GPU where there is one.
        dtype: by default bfloat16 on a GPU and float32 elsewhere.
        seed: of the weights.

    Raises:
        RandomWeightsError: the name or scale is unknown, or the weights do not fit the device.

    >>> random_pipeline("flux.1-dev", "small", "cpu").options["output_type"]
    'latent'
    """
    if name not in RANDOM_MODELS:
        raise RandomWeightsError(f"No architecture {name!r}: expected one of {', '.join(NAMES)}.")
    if scale not in SCALES:
        raise RandomWeightsError(f"Unknown scale {scale!r}: expected one of {', '.join(SCALES)}.")
    import diffusers

    model = RANDOM_MODELS[name]
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kind = dtype or (torch.bfloat16 if where.type == "cuda" else torch.float32)
    config = {**model.config, **(model.small if scale == "small" else {})}
    try:
        transformer = random_module(getattr(diffusers, model.transformer), config, where, kind, seed)
    except (RuntimeError, AssertionError) as error:
        reason = in_one_line(error)
        raise RandomWeightsError(f"{model.title} cannot be built on {where} in {kind}: {reason}.") from error
    pipe = pipeline_around(model, transformer, model.small_tokens if scale == "small" else model.text_tokens)
    options = {**model.call, **(model.small_call if scale == "small" else {}), "output_type": "latent"}
    parameters = sum(parameter.numel() for parameter in transformer.parameters())
    return RandomPipeline(name, model.title, scale, pipe, options, parameters)


def meaningless_matrix(steps: int) -> L2P:
    """A matrix for L2P whose rows are means of all that came before: dense, so that it costs what a learned one does.

    >>> np.asarray(meaningless_matrix(2).matrix).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    return L2P(np.tril(np.ones((steps, steps))) / np.arange(1, steps + 1)[:, None])


def random_module(
    kind: type[nn.Module], config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, seed: int = 0
) -> nn.Module:
    """A module with random parameters, each made where it shall live and never anywhere else.

    Matrices are normal with a variance of one over the size of what they multiply, so that activations stay near one;
    modules that the class keeps in float32 stay there.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        module = kind(**config)
    generator = torch.Generator(device).manual_seed(seed)
    wide = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    for path, owner in module.named_modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            kept = wide & {*path.split("."), name}
            value = torch.empty(parameter.shape, device=device, dtype=torch.float32 if kept else dtype)
            if parameter.dim() > 1:
                value.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                value.normal_(1.0 if name == "weight" else 0.0, 0.02, generator=generator)
            owner.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return module.to(device).eval()


def pipeline_around(model: RandomModel, transformer: Any, tokens: int) -> Any:
    """The model's pipeline around a denoiser, without text encoders and decoder.

    Args:
        model: which.
        transformer: the denoiser.
        tokens: length of the random embedding that stands for a prompt's.
    """
    import diffusers

    kind = getattr(diffusers, model.pipeline)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    absent = {one.name: None for one in parameters if one.default is inspect.Parameter.empty}
    scheduler = getattr(diffusers, model.scheduler)(**model.scheduler_config)
    pipe = kind(**{**absent, "transformer": transformer, "scheduler": scheduler})
    pipe.set_progress_bar_config(disable=True)
    pipe.encode_prompt = _Encoder(model, transformer, tokens)
    return pipe


class _Encoder:
    """Stands for a pipeline's ``encode_prompt``: random embeddings of the shapes that the text encoders give."""

    def __init__(self, model: RandomModel, transformer: Any, tokens: int) -> None:
        config = transformer.config
        self.encoded, self.tokens = model.encoded, tokens
        self.width = next(config[name] for name in TEXT_WIDTHS if name in config)
        self.pooled = config.get("pooled_projection_dim")
        self.device, self.dtype = transformer.device, transformer.dtype

    def __call__(self, prompt: str | list[str], negative_prompt: str | list[str] | None = None, **given: Any) -> Any:
        copies = given.get("num_images_per_prompt") or given.get("num_videos_per_prompt") or 1
        words = [prompt] if isinstance(prompt, str) else list(prompt)
        negative = negative_prompt or ""
        against = [negative] * len(words) if isinstance(negative, str) else list(negative)
        return tuple(
            self._output(kind, [one for one in (against if "negative" in kind else words) for _ in range(copies)])
            for kind in self.encoded
        )

    def _output(self, kind: Output, words: list[str]) -> Tensor | None:
        if kind == "no mask":
            return None
        if kind == "mask":
            return torch.ones(len(words), self.tokens, dtype=torch.long, device=self.device)
        if kind == "positions":
            return torch.zeros(self.tokens, 3, device=self.device, dtype=self.dtype)
        shape = (self.pooled,) if "pooled" in kind else (self.tokens, self.width)
        return torch.stack([_noise(f"{kind.split()[-1]} {one}", shape) for one in words]).to(self.device, self.dtype)


def _noise(words: str, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(words.encode())))
