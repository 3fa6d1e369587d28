"""Measures of quality by name. What cannot be loaded is missing with the reason, never zero."""

from foreseer.evaluate.quality.base import Drawn, MissingMeasureError, Quality, Setting
from foreseer.evaluate.quality.distributions import Fid, InceptionScore, SpatialFid
from foreseer.evaluate.quality.perceptual import Lpips
from foreseer.evaluate.quality.vbench import DIMENSIONS, VBench
from foreseer.evaluate.quality.words import ClipScore, ImageReward

__all__ = ["QUALITY", "Drawn", "MissingMeasureError", "Quality", "Setting"]

QUALITY: dict[str, Quality] = {
    one.name: one
    for one in (
        Lpips(),
        ClipScore(),
        ImageReward(),
        Fid(),
        SpatialFid(),
        InceptionScore(),
        *(VBench(dimension) for dimension in DIMENSIONS),
    )
}
