"""A measure of quality: how it is loaded, why it is missing, what it is taken of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from foreseer.errors import in_one_line
from foreseer.evaluate.environment import version_of
from foreseer.evaluate.results import Measure


class MissingMeasureError(Exception):
    """A measure cannot be taken here; the message is the reason that the report prints."""


@dataclass(frozen=True)
class Drawn:
    """A sample that was stored.

    Attributes:
        frames: shape (F, H, W, 3), uint8; one frame for a picture.
        reference: the same of the reference.
        prompt: its words.
    """

    frames: np.ndarray
    reference: np.ndarray
    prompt: str


Scorer = Callable[[Drawn], float]
SetScorer = Callable[[Sequence[Callable[[], Drawn]]], float]


@dataclass(frozen=True)
class Setting:
    """What loading a measure may depend on.

    Attributes:
        device: to load networks on.
        video: whether samples are videos.
        real: a folder of real pictures, for distances between distributions.
    """

    device: str = "cpu"
    video: bool = False
    real: Path | None = None


class Quality(ABC):
    """A measure taken of stored samples, 8 bits a channel, by the field's own package.

    Attributes:
        name: key.
        title: what tables print.
        better: which way is better.
        package: the distribution that computes it.
    """

    name: str
    title: str
    better: Literal["higher", "lower"] = "higher"
    package: str
    videos_only: bool = False
    of_reference: bool = True  # whether it says anything of the reference itself

    def load(self, setting: Setting) -> Scorer | SetScorer:
        """Load what it needs.

        Raises:
            MissingMeasureError: it cannot be taken, with the reason.
        """
        if self.videos_only and not setting.video:
            raise MissingMeasureError("of videos only")
        try:
            return self._load(setting)
        except MissingMeasureError:
            raise
        except ModuleNotFoundError as error:
            raise MissingMeasureError(f"{error.name} is not installed: pip install 'foreseer[quality]'") from error
        except Exception as error:  # of a package of others: any failure is a reason, never a crash
            raise MissingMeasureError(in_one_line(error)) from error

    @property
    def of_sets(self) -> bool:
        """Whether it is one number of all samples together."""
        return False

    def applies(self, video: bool) -> bool:
        """Whether its column is shown for such samples unless it is asked for."""
        return video or not self.videos_only

    def column(self, missing: str | None = None) -> Measure:
        """The column of the table."""
        version = version_of(self.package)
        source = self.package if version is None else f"{self.package} {version}"
        return Measure(self.name, self.title, self.better, missing, source)

    @abstractmethod
    def _load(self, setting: Setting) -> Scorer | SetScorer: ...
