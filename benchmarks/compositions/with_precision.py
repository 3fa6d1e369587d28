"""Precision: half-precision pipelines, and weights in 8 and 4 bits by every library that does so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.robustness.test_quantised import by_bitsandbytes, by_gguf, by_layerwise_casting, by_torchao

from benchmarks.compositions.composed import Composed, Composition

AREA = "Precision"
DIT_AND_UNET = ("flux", "stable_diffusion")


def in_dtype(dtype: torch.dtype) -> Callable[[Composed], None]:
    """The whole pipeline, and its embeddings."""

    def change(built: Composed) -> None:
        built.pipe.to(dtype)
        built.edits.append(lambda inputs: {name: _cast(name, value, dtype) for name, value in inputs.items()})

    return change


def _cast(name: str, value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if "embeds" in name and isinstance(value, torch.Tensor) else value


def _weights(change: Callable[[Any], None]) -> Callable[[Composed], None]:
    return lambda built: change(built.model)


def dynamic_int8(model: Any) -> None:
    """int8 weights and activations."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())


def float8_products(model: Any) -> None:
    """Matrix products in float8."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, quantize_

    quantize_(model, Float8DynamicActivationFloat8WeightConfig())


layerwise = _weights(by_layerwise_casting)
nf4 = _weights(lambda model: by_bitsandbytes(model, 4))

COMPOSITIONS = (
    Composition(AREA, "bfloat16", DIT_AND_UNET, in_dtype(torch.bfloat16), late=True),
    Composition(AREA, "float16", DIT_AND_UNET, in_dtype(torch.float16), late=True),
    Composition(AREA, "float8 weights, layerwise casting", DIT_AND_UNET, layerwise, late=True),
    Composition(AREA, "float8 products (torchao)", DIT_AND_UNET, _weights(float8_products), late=True),
    Composition(AREA, "int8 weights (torchao)", DIT_AND_UNET, _weights(by_torchao), late=True),
    Composition(AREA, "int8 weights and activations (torchao)", DIT_AND_UNET, _weights(dynamic_int8), late=True),
    Composition(
        AREA, "int8 (bitsandbytes)", DIT_AND_UNET, _weights(lambda model: by_bitsandbytes(model, 8)), late=True
    ),
    Composition(AREA, "nf4 (bitsandbytes)", DIT_AND_UNET, nf4, late=True),
    Composition(AREA, "GGUF (Q8_0)", DIT_AND_UNET, _weights(by_gguf), late=True),
)
