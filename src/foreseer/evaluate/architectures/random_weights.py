"""Published architectures with random weights: their cost is real, their pictures are meaningless.

Nothing is downloaded: transformers are built from configuration, text encoders and decoder are left out, and random
numbers seeded by the prompt's text are its embedding. Latency, FLOPs and memory of the denoising loop are those of the
released model; fidelity has no meaning.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreseer.errors import ForeseerError, in_one_line
from foreseer.evaluate.architectures.random_models import RANDOM_MODELS, SCALES, Output, RandomModel, Scale
from foreseer.forecast import L2P

NAMES: tuple[str, ...] = tuple(RANDOM_MODELS)
TEXT_WIDTHS = ("joint_attention_dim", "text_embed_dim", "text_dim")


class RandomWeightsError(ForeseerError, ValueError):
    """The architecture is unknown, or does not fit the device."""


@dataclass(frozen=True)
class RandomPipeline:
    """Pipeline to call with a prompt and ``options``; it returns latents only.

    Attributes:
        name: name of the model.
        title: title in tables.
        scale: ``"full"`` or ``"small"``.
        pipe: the diffusers pipeline.
        options: options of its call: size, frames, guidance, ``output_type="latent"``.
        parameters: number of parameters of the denoiser.
    """

    name: str
    title: str
    scale: Scale
    pipe: Any
    options: Mapping[str, Any]
    parameters: int

    @property
    def note(self) -> str:
        """Sentence to print under every table of its figures."""
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
    """Build a published pipeline from its released configuration, with random weights.

    Args:
        name: one of ``NAMES``.
        scale: ``"full"``: every layer at its real width, at the published size of picture or video. ``"small"``: the
            same architecture with few layers and heads, for a CPU.
        device: by default the GPU if there is one.
        dtype: by default bfloat16 on a GPU, else float32.
        seed: seed of the weights.

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
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if target.type == "cuda" else torch.float32)
    config = {**model.config, **(model.small if scale == "small" else {})}
    try:
        transformer = random_module(getattr(diffusers, model.transformer), config, target, dtype, seed)
    except (RuntimeError, AssertionError) as error:
        reason = in_one_line(error)
        raise RandomWeightsError(f"{model.title} cannot be built on {target} in {dtype}: {reason}.") from error
    pipe = pipeline_around(model, transformer, model.small_tokens if scale == "small" else model.text_tokens)
    options = {**model.call, **(model.small_call if scale == "small" else {}), "output_type": "latent"}
    parameters = sum(parameter.numel() for parameter in transformer.parameters())
    return RandomPipeline(name, model.title, scale, pipe, options, parameters)


def meaningless_matrix(steps: int) -> L2P:
    """Make an L2P matrix of plain means, as dense and so as costly as a learned one.

    >>> np.asarray(meaningless_matrix(2).matrix).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    return L2P(np.tril(np.ones((steps, steps))) / np.arange(1, steps + 1)[:, None])


def random_module(
    kind: type[nn.Module], config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, seed: int = 0
) -> nn.Module:
    """Build a module with random parameters, each allocated on the target device directly.

    Matrices are normal with variance one over their input size, so that activations stay near one; modules that the
    class keeps in float32 stay in float32.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        module = kind(**config)
    generator = torch.Generator(device).manual_seed(seed)
    float32_names = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    for path, owner in module.named_modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            in_float32 = float32_names & {*path.split("."), name}
            value = torch.empty(parameter.shape, device=device, dtype=torch.float32 if in_float32 else dtype)
            if parameter.dim() > 1:
                value.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                value.normal_(1.0 if name == "weight" else 0.0, 0.02, generator=generator)
            owner.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return module.to(device).eval()


def pipeline_around(model: RandomModel, transformer: Any, tokens: int) -> Any:
    """Build the model's pipeline around a denoiser, without text encoders and decoder.

    Args:
        model: the published model.
        transformer: the denoiser.
        tokens: length of the random embedding that replaces a prompt's.
    """
    import diffusers

    kind = getattr(diffusers, model.pipeline)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    absent = {parameter.name: None for parameter in parameters if parameter.default is inspect.Parameter.empty}
    scheduler = getattr(diffusers, model.scheduler)(**model.scheduler_config)
    pipe = kind(**{**absent, "transformer": transformer, "scheduler": scheduler})
    pipe.set_progress_bar_config(disable=True)
    pipe.encode_prompt = _RandomEncoder(model, transformer, tokens)
    return pipe


class _RandomEncoder:
    """Replacement of ``encode_prompt``: random embeddings with the text encoders' shapes."""

    def __init__(self, model: RandomModel, transformer: Any, tokens: int) -> None:
        config = transformer.config
        self.encoded, self.tokens = model.encoded, tokens
        self.width = next(config[name] for name in TEXT_WIDTHS if name in config)
        self.pooled = config.get("pooled_projection_dim")
        self.device, self.dtype = transformer.device, transformer.dtype

    def __call__(self, prompt: str | list[str], negative_prompt: str | list[str] | None = None, **options: Any) -> Any:
        copies = options.get("num_images_per_prompt") or options.get("num_videos_per_prompt") or 1
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negative = negative_prompt or ""
        negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        return tuple(
            self._output(kind, [text for text in (negatives if "negative" in kind else prompts) for _ in range(copies)])
            for kind in self.encoded
        )

    def _output(self, kind: Output, texts: list[str]) -> Tensor | None:
        if kind == "no mask":
            return None
        if kind == "mask":
            return torch.ones(len(texts), self.tokens, dtype=torch.long, device=self.device)
        if kind == "positions":
            return torch.zeros(self.tokens, 3, device=self.device, dtype=self.dtype)
        shape = (self.pooled,) if "pooled" in kind else (self.tokens, self.width)
        return torch.stack([_noise(f"{kind.split()[-1]} {text}", shape) for text in texts]).to(self.device, self.dtype)


def _noise(text: str, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))
