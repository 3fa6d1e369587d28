r"""BNS, bespoke non-stationary solvers: all times and weights of a tableau are learned.

$$x_{i+1} = a_i x_0 + \sum_{j \le i} b_{ij} F_j, \qquad
\text{loss} = \mathbb{E}\, \log \lVert x_N - x_{\text{ref}} \rVert^2$$

About N (N + 5) / 2 numbers: N - 1 times between the first step's and the end, N weights on the first sample and
N (N + 1) / 2 on the outputs. Training begins at a given solver; the paper begins at Euler or the midpoint method.

Source: Shaul et al., "Bespoke Non-Stationary Solvers for Fast Sampling of Diffusion and Flow Models", arXiv 2403.01329
(arXiv's non-exclusive licence; no code was released): Section 3, the family and the PSNR loss. Written from the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foreseer.evaluate.peers.solver_training import LearnableSolver
from foreseer.evaluate.peers.tableau import Tableau
from foreseer.evaluate.peers.tableau_scheduler import Coefficients


class BNS(LearnableSolver):
    """Free times, free weights on the first sample and on all outputs so far.

    Parameters are what each step adds to the weights of the sample before, in units of the step's first size: the same
    solvers as with the weights themselves, and far quicker to train. Times stay ordered: their gaps are a softmax of
    parameters, over the span from the first time to ``end``.

    Args:
        tableau: where training begins; its times must fall from step to step, and its weights be scalars.
        end: time where the run ends, 0 for samples without noise.
    """

    name, title, loss = "bns", "BNS", "psnr"

    def __init__(self, tableau: Tableau, end: float = 0.0) -> None:
        steps = tableau.steps
        self._first, self._end = float(tableau.times[0]), end
        self._lower = torch.tril(torch.ones(steps, steps, dtype=torch.bool))
        levels = torch.cat([torch.tensor(tableau.times), torch.tensor([end], dtype=torch.float64)])
        gaps = (levels[:-1] - levels[1:]) / (self._first - end)
        start, weights = torch.tensor(tableau.start), torch.tensor(tableau.weights)
        added = weights - torch.cat([torch.zeros_like(weights[:1]), weights[:-1]])
        self._size = added.abs().amax(1).clamp_min(1e-9)
        self._start = start
        values = (added / self._size[:, None])[self._lower]
        self._lengths = (steps, steps, len(values))
        self.begins = dict(tableau.settings)
        self.initial = torch.cat([gaps.log(), torch.zeros(steps, dtype=torch.float64), values])

    def coefficients(self, parameters: Tensor) -> Coefficients:
        """The tableau of some parameters."""
        logits, shifts, values = parameters.split(self._lengths)
        falls = torch.softmax(logits, 0).cumsum(0)[:-1]
        times = self._first - (self._first - self._end) * torch.cat([torch.zeros_like(logits[:1]), falls])
        start = self._start + (self._size * shifts).cumsum(0)
        added = torch.zeros(self._lower.shape, dtype=parameters.dtype).masked_scatter(self._lower, values)
        return Coefficients(times, start, (self._size[:, None] * added).cumsum(0))
