"""LPIPS: distance in the features of a network (arXiv 1801.03924), by its authors' package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreseer.evaluate.quality.base import Drawn, Quality, Scorer, Setting


@dataclass(frozen=True)
class Lpips(Quality):
    """LPIPS against the reference; of a video the mean over its frames.

    Attributes:
        net: the network, ``"alex"`` as most tables have it.
    """

    net: str = "alex"
    name = "lpips"
    title = "LPIPS (AlexNet)"
    better = "lower"
    package = "lpips"
    of_reference = False

    def _load(self, setting: Setting) -> Scorer:
        import lpips
        import torch

        network = lpips.LPIPS(net=self.net, verbose=False).eval().to(setting.device)

        def tensor(frame: np.ndarray) -> torch.Tensor:  # shape (1, 3, H, W) in [-1, 1]
            return (torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float() / 127.5 - 1).to(setting.device)

        def score(drawn: Drawn) -> float:
            with torch.no_grad():
                pairs = zip(drawn.frames, drawn.reference, strict=True)
                values = [float(network(tensor(frame), tensor(true))) for frame, true in pairs]
            return float(np.mean(values))

        return score
