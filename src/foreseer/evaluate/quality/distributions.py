"""Measures of all pictures together: FID and IS by torch-fidelity, and sFID."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from foreseer.evaluate.quality.base import Drawn, MissingMeasureError, Quality, Scorer, SetScorer, Setting


class _OfSets(Quality):
    package = "torch-fidelity"

    @property
    def of_sets(self) -> bool:
        """One number of all samples together."""
        return True

    def applies(self, video: bool) -> bool:
        """Of pictures only."""
        return not video


def _calculate(**options: Any) -> dict[str, float]:
    from torch_fidelity import calculate_metrics

    return calculate_metrics(verbose=False, **options)


def _pictures(samples: Sequence[Callable[[], Drawn]]) -> Any:
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
    """Frechet inception distance (arXiv 1706.08500) from a folder of real pictures."""

    name, title, better = "fid", "FID", "lower"

    def _load(self, setting: Setting) -> Scorer | SetScorer:
        if setting.real is None:
            raise MissingMeasureError("needs real pictures to compare with: --real FOLDER")
        import torch_fidelity  # noqa: F401 - told now, not after sampling

        def score(samples: Sequence[Callable[[], Drawn]]) -> float:
            found = _calculate(
                input1=_pictures(samples), input2=str(setting.real), fid=True, cuda=setting.device.startswith("cuda")
            )
            return found["frechet_inception_distance"]

        return score


class InceptionScore(_OfSets):
    """Inception score (arXiv 1606.03498)."""

    name, title = "is", "Inception score"

    def _load(self, setting: Setting) -> Scorer | SetScorer:
        import torch_fidelity  # noqa: F401 - told now, not after sampling

        def score(samples: Sequence[Callable[[], Drawn]]) -> float:
            found = _calculate(input1=_pictures(samples), isc=True, cuda=setting.device.startswith("cuda"))
            return found["inception_score_mean"]

        return score


class SpatialFid(_OfSets):
    """sFID (arXiv 2103.03841): spatial features in place of pooled ones."""

    name, title, better, package = "sfid", "sFID", "lower", "guided-diffusion"

    def _load(self, setting: Setting) -> Scorer | SetScorer:
        raise MissingMeasureError("no package computes it: give the pictures to guided-diffusion's evaluator.py")
