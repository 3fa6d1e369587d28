"""Abstract measure of quality: how to load it, why it is missing, what it is taken of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from foreseer.errors import in_one_line
from foreseer.evaluate.sampling.environment import version_of


class MissingMeasureError(Exception):
    """A measure cannot be taken; the message is the reason that the report prints."""


@dataclass(frozen=True)
class Measure:
    """Column of the table for a measure of fidelity or quality.

    Attributes:
        name: key, such as ``psnr``.
        title: title with the unit.
        better: which direction is better.
        missing: reason why it could not be taken, else ``None``.
        source: package and version that computed it.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    missing: str | None = None
    source: str = ""


@dataclass(frozen=True)
class StoredSample:
    """Stored sample with its reference.

    Attributes:
        frames: shape (F, H, W, 3), uint8; one frame for a picture.
        reference: the reference's frames, same shape.
        prompt: the prompt.
    """

    frames: np.ndarray
    reference: np.ndarray
    prompt: str


Scorer = Callable[[StoredSample], float]
SetScorer = Callable[[Sequence[Callable[[], StoredSample]]], float]


@dataclass(frozen=True)
class MeasureContext:
    """Settings that loading a measure may depend on.

    Attributes:
        device: device for networks.
        video: whether samples are videos.
        real: folder of real pictures, for distances between distributions.
    """

    device: str = "cpu"
    video: bool = False
    real: Path | None = None


class Quality(ABC):
    """Measure of quality of stored 8-bit samples, computed by the field's own package.

    Attributes:
        name: key.
        title: title in tables.
        better: which direction is better.
        package: distribution that computes it.
        videos_only: whether it is defined for videos only.
        of_reference: whether it is meaningful for the reference itself.
    """

    name: str
    title: str
    better: Literal["higher", "lower"] = "higher"
    package: str
    videos_only: bool = False
    of_reference: bool = True

    def load(self, context: MeasureContext) -> Scorer | SetScorer:
        """Load the packages and networks that the measure needs.

        Raises:
            MissingMeasureError: it cannot be taken, with the reason.
        """
        if self.videos_only and not context.video:
            raise MissingMeasureError("defined for videos only")
        try:
            return self._load(context)
        except MissingMeasureError:
            raise
        except ModuleNotFoundError as error:
            raise MissingMeasureError(f"{error.name} is not installed: pip install 'foreseer[quality]'") from error
        except Exception as error:  # any failure of a foreign package is a reason, never a crash
            raise MissingMeasureError(in_one_line(error)) from error

    @property
    def of_sets(self) -> bool:
        """Whether the measure is one number for all samples together."""
        return False

    def applies(self, video: bool) -> bool:
        """Return whether the column is shown by default for such samples."""
        return video or not self.videos_only

    def column(self, missing: str | None = None) -> Measure:
        """Make the column of the table."""
        version = version_of(self.package)
        source = self.package if version is None else f"{self.package} {version}"
        return Measure(self.name, self.title, self.better, missing, source)

    @abstractmethod
    def _load(self, context: MeasureContext) -> Scorer | SetScorer: ...
