"""Measures by name: ``FIDELITY`` to the reference, and ``QUALITY`` by other packages.

``similarity`` holds the formulas of fidelity. Each class of quality is one registry entry; a measure that cannot be
loaded is missing with its reason, never zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from foreseer.checks import unknown_name
from foreseer.errors import ForeseerError
from foreseer.evaluate.metrics.base import Measure, MeasureContext, MissingMeasureError, Quality, StoredSample
from foreseer.evaluate.metrics.distributions import Fid, InceptionScore, SpatialFid
from foreseer.evaluate.metrics.fidelity import FIDELITY
from foreseer.evaluate.metrics.perceptual import Lpips
from foreseer.evaluate.metrics.text_alignment import ClipScore, ImageReward
from foreseer.evaluate.metrics.vbench import DIMENSIONS, VBench

__all__ = [
    "FIDELITY",
    "QUALITY",
    "Measure",
    "MeasureContext",
    "MissingMeasureError",
    "Quality",
    "StoredSample",
    "check_measures",
]

QUALITY: dict[str, Quality] = {
    measure.name: measure
    for measure in (
        Lpips(),
        ClipScore(),
        ImageReward(),
        Fid(),
        SpatialFid(),
        InceptionScore(),
        *(VBench(dimension) for dimension in DIMENSIONS),
    )
}


def check_measures(names: Sequence[str] | None, error: type[ForeseerError]) -> None:
    """Raise ``error`` unless every name is a measure's.

    >>> check_measures(["psnr", "lpips"], ForeseerError)
    """
    unknown = [name for name in names or () if name not in FIDELITY and name not in QUALITY]
    if unknown:
        raise error(unknown_name("measure", unknown[0], (*FIDELITY, *QUALITY)))
