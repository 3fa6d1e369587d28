"""Agreement of a picture with its prompt: CLIP score and ImageReward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.evaluate.metrics.base import MeasureContext, MissingMeasureError, Quality, Scorer, StoredSample

SECONDS_TO_ANSWER = 10
_FILES = ["*.json", "*.txt", "model.safetensors"]


@dataclass(frozen=True)
class ClipScore(Quality):
    """CLIP score by torchmetrics (arXiv 2104.08718); for a video the mean over its frames.

    Attributes:
        model: hub id or folder of the CLIP model.
    """

    model: str = "openai/clip-vit-large-patch14"
    name = "clip"
    title = "CLIP score (ViT-L/14)"
    package = "torchmetrics"

    def _load(self, context: MeasureContext) -> Scorer:
        import torch
        from torchmetrics.multimodal import CLIPScore
        from transformers import CLIPModel, CLIPProcessor

        folder = _weights(self.model)
        model: Any = CLIPModel.from_pretrained(folder)
        for name in ("get_image_features", "get_text_features"):
            setattr(model, name, _as_tensor(getattr(model, name)))
        loaded: Any = model, CLIPProcessor.from_pretrained(folder)
        metric = CLIPScore(model_name_or_path=lambda: loaded).to(context.device)

        def score(sample: StoredSample) -> float:
            metric.reset()
            frames = [torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in sample.frames]
            with torch.no_grad():
                metric.update([frame.to(context.device) for frame in frames], [sample.prompt] * len(frames))
            return float(metric.compute())

        return score


@dataclass(frozen=True)
class ImageReward(Quality):
    """ImageReward by its authors' package (arXiv 2304.05977); for a video the mean over its frames.

    It separates methods poorly: accelerated pictures often score above the reference.
    """

    name = "image_reward"
    title = "ImageReward"
    package = "image-reward"

    def _load(self, context: MeasureContext) -> Scorer:
        import torch

        try:
            import ImageReward as package  # noqa: N813 - the name of the package
        except ModuleNotFoundError as error:
            raise MissingMeasureError(f"{error.name} is not installed: pip install image-reward") from error
        from PIL import Image

        model = package.load("ImageReward-v1.0", device=context.device)

        def score(sample: StoredSample) -> float:
            with torch.no_grad():
                values = [float(model.score(sample.prompt, Image.fromarray(frame))) for frame in sample.frames]
            return float(np.mean(values))

        return score


def _as_tensor(features: Callable[..., Any]) -> Callable[..., Any]:
    """Unwrap features for torchmetrics: since version 5 transformers returns the tensor inside an object."""

    def tensor(*args: Any, **kwargs: Any) -> Any:
        output = features(*args, **kwargs)
        return getattr(output, "pooler_output", output)

    return tensor


def _weights(model: str) -> str:
    """Find the folder of a model: a local folder, the local cache of the hub, or a download."""
    import huggingface_hub

    if Path(model).is_dir():
        return model
    try:
        return huggingface_hub.snapshot_download(model, local_files_only=True, allow_patterns=_FILES)
    except (OSError, ValueError):
        pass
    try:  # one request with a short timeout: the hub's client retries downloads for minutes
        huggingface_hub.HfApi().model_info(model, timeout=SECONDS_TO_ANSWER)
    except Exception as error:
        raise MissingMeasureError(
            f"the weights {model} are not on this machine, and the hub does not answer"
        ) from error
    return huggingface_hub.snapshot_download(model, allow_patterns=_FILES)
