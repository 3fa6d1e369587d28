"""Measures of all pictures together: FID and Inception Score by torch-fidelity, and sFID."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from foreseer.evaluate.metrics.base import MeasureContext, MissingMeasureError, Quality, Scorer, SetScorer, StoredSample

SPLITS = 10  # of the pictures, over which the paper averages the Inception Score


class _OfSets(Quality):
    package = "torch-fidelity"

    @property
    def of_sets(self) -> bool:
        """Whether the measure is one number for all samples together."""
        return True

    def applies(self, video: bool) -> bool:
        """Return whether the samples are pictures."""
        return not video


def _calculate(**options: Any) -> dict[str, float]:
    from torch_fidelity import calculate_metrics

    return calculate_metrics(verbose=False, **options)


def _pictures(samples: Sequence[Callable[[], StoredSample]]) -> Any:
    import torch
    from torch.utils.data import Dataset

    class Pictures(Dataset[torch.Tensor]):
        """Frames as uint8 tensors, shape (3, H, W)."""

        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.from_numpy(samples[index]().frames[0].copy()).permute(2, 0, 1)

    return Pictures()


class Fid(_OfSets):
    """Frechet Inception Distance to a folder of real pictures (arXiv 1706.08500)."""

    name, title, better = "fid", "FID", "lower"

    def _load(self, context: MeasureContext) -> Scorer | SetScorer:
        if context.real is None:
            raise MissingMeasureError("needs real pictures to compare with: --real FOLDER")
        import torch_fidelity  # noqa: F401 - fail now, not after sampling

        def score(samples: Sequence[Callable[[], StoredSample]]) -> float:
            values = _calculate(
                input1=_pictures(samples), input2=str(context.real), fid=True, cuda=context.device.startswith("cuda")
            )
            return values["frechet_inception_distance"]

        return score


class InceptionScore(_OfSets):
    """Inception Score (arXiv 1606.03498)."""

    name, title = "is", "Inception score"

    def _load(self, context: MeasureContext) -> Scorer | SetScorer:
        import torch_fidelity  # noqa: F401 - fail now, not after sampling

        def score(samples: Sequence[Callable[[], StoredSample]]) -> float:
            splits = min(SPLITS, len(samples))  # an empty split would make the score NaN
            cuda = context.device.startswith("cuda")
            values = _calculate(input1=_pictures(samples), isc=True, isc_splits=splits, cuda=cuda)
            return values["inception_score_mean"]

        return score


class SpatialFid(_OfSets):
    """sFID: FID on spatial instead of pooled features (arXiv 2103.03841)."""

    name, title, better, package = "sfid", "sFID", "lower", "guided-diffusion"

    def _load(self, context: MeasureContext) -> Scorer | SetScorer:
        raise MissingMeasureError("no package computes it: give the pictures to guided-diffusion's evaluator.py")
