"""LPIPS: distance in the features of a network (arXiv 1801.03924), by its authors' package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreseer.evaluate.metrics.base import MeasureContext, Quality, Scorer, StoredSample


@dataclass(frozen=True)
class Lpips(Quality):
    """LPIPS against the reference; for a video the mean over its frames.

    Attributes:
        net: the feature network; most tables use ``"alex"``.
    """

    net: str = "alex"
    name = "lpips"
    title = "LPIPS (AlexNet)"
    better = "lower"
    package = "lpips"
    of_reference = False

    def _load(self, context: MeasureContext) -> Scorer:
        import lpips
        import torch

        network = lpips.LPIPS(net=self.net, verbose=False).eval().to(context.device)

        def tensor(frame: np.ndarray) -> torch.Tensor:  # shape (1, 3, H, W) in [-1, 1]
            return (torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float() / 127.5 - 1).to(context.device)

        def score(sample: StoredSample) -> float:
            with torch.no_grad():
                pairs = zip(sample.frames, sample.reference, strict=True)
                values = [float(network(tensor(frame), tensor(reference))) for frame, reference in pairs]
            return float(np.mean(values))

        return score
