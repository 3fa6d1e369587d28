"""Pictures, videos and sound of a pipeline's output, whatever its class calls them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from foreseer.pipelines.loading import PipelineError

# The first of these that an output has holds its pictures or videos.
IS_VIDEO = {"images": False, "frames": True, "videos": True, "video": True, "image": False, "rgb": False}
SOUNDS = ("audios", "audio", "sound")
# Cosmos 3 decodes to one video and its sound, without the batch's dimension.
BATCHED_DIMENSIONS = {"video": 5, "sound": 3}


class Drawn(NamedTuple):
    """The pictures or videos of a pipeline's output.

    Attributes:
        batch: one picture, video or latent per prompt.
        is_video: whether these are videos.
    """

    batch: Any
    is_video: bool


def drawn(output: Any) -> Drawn:
    """Return the pictures or videos of a pipeline's output.

    Raises:
        PipelineError: it holds neither.
    """
    found = drawn_or_none(output)
    if found is None:
        raise PipelineError(f"{type(output).__name__} holds no picture and no video: only these can be written.")
    return found


def drawn_or_none(output: Any) -> Drawn | None:
    """Return the pictures or videos of a pipeline's output, ``None`` if it holds neither."""
    name = _first_name(output, IS_VIDEO)
    return None if name is None else Drawn(_batch(output, name), IS_VIDEO[name])


def sounds(output: Any) -> Any:
    """Return the sounds of a pipeline's output, one per prompt, ``None`` if it holds none."""
    name = _first_name(output, SOUNDS)
    return None if name is None else _batch(output, name)


def _first_name(output: Any, names: Iterable[str]) -> str | None:
    return next((name for name in names if getattr(output, name, None) is not None), None)


def _batch(output: Any, name: str) -> Any:
    values = getattr(output, name)
    lacks_batch = getattr(values, "ndim", 0) < BATCHED_DIMENSIONS.get(name, 0)
    return [values] if lacks_batch else values


def not_finite(pipeline: str) -> PipelineError:
    """The error of a pipeline that drew NaN or infinite values."""
    return PipelineError(
        f"{pipeline} drew values that are not finite (NaN), which would be written as black or silence. Try --dtype "
        "float32, the sizes and the number of frames that the model was made for, or more computed steps."
    )


def check_finite(pipe: Any, output: Any) -> None:
    """Refuse an output whose pictures, videos or sounds hold values that are not finite.

    Raises:
        PipelineError: they do. PIL pictures cannot: see :func:`foreseer.pipelines.run`.
    """
    made = drawn_or_none(output)
    if not all(map(_is_finite, (None if made is None else made.batch, sounds(output)))):
        raise not_finite(type(pipe).__name__)


def _is_finite(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return all(map(_is_finite, values))
    if isinstance(values, np.ndarray):
        return not np.issubdtype(values.dtype, np.floating) or bool(np.isfinite(values).all())
    return not hasattr(values, "isfinite") or bool(values.isfinite().all())
