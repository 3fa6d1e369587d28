r"""DyWeight: learned weights over past slopes, and a learned scale of the network's time.

$$x_{k+1} = x_k + (\sigma_{k+1} - \hat\sigma_k) \sum_{j \le k} w_{kj} F_j, \qquad
\hat\sigma_{k+1} = \hat\sigma_k + (\sigma_{k+1} - \hat\sigma_k) \sum_{j \le k} w_{kj}, \qquad
t_k = s_k \hat\sigma_k$$

The weights' sum moves the level at which the solver believes its sample to be; the network gets that level times a
learned scale in [0.5, 1.5]. N (N + 1) / 2 weights and N scales; the loss is the mean squared error of the final sample.

Source: Zhao et al., "DyWeight: Dynamic Gradient Weighting for Few-Step Diffusion Sampling", arXiv 2603.11607 (CC BY
4.0); the form for flow matching as in the authors' variant for FLUX.1-dev (Westlake-AGI-Lab/DyWeight, which states no
licence; not copied). Training begins at iPNDM's weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.ipndm import ipndm_weights
from foreseer.evaluate.peers.noise_path import NoisePath
from foreseer.evaluate.peers.solver_training import LearnableSolver
from foreseer.evaluate.peers.tableau_scheduler import Coefficients

LOW, HIGH = 0.5, 1.5  # limits of the time's scale
ORDER = 2  # of the iPNDM weights that training begins with


class DyWeight(LearnableSolver):
    """Free lower-triangular weights and scales of time.

    Args:
        path: levels of flow matching.
        order: of the iPNDM weights that training begins with; 1 is Euler.

    Raises:
        PeerError: the path is not one of flow matching.
    """

    name, title, loss = "dyweight", "DyWeight", "mse"

    def __init__(self, path: NoisePath, order: int = ORDER) -> None:
        if not path.flow:
            raise PeerError("DyWeight is written for flow matching here, and this scheduler is not one.")
        self._levels = torch.tensor(path.tau)
        self._unit = float(path.times[0] / path.tau[0])
        self._weights = torch.tril(torch.ones(path.steps, path.steps, dtype=torch.bool))
        weights = torch.tensor(ipndm_weights(path.steps, order))[self._weights]
        self.begins = {"solver": "iPNDM", "order": order}
        self.initial = torch.cat([weights, torch.zeros(path.steps, dtype=torch.float64)])

    def coefficients(self, parameters: Tensor) -> Coefficients:
        """The tableau of some parameters."""
        steps = len(self._weights)
        values, scales = parameters[:-steps], parameters[-steps:]
        mixing = torch.zeros(self._weights.shape, dtype=parameters.dtype).masked_scatter(self._weights, values)
        level, levels, moves = self._levels[0], [], []
        for step in range(steps):
            levels.append(level)
            moves.append((self._levels[step + 1] - level) * mixing[step])
            level = level + moves[-1].sum()
        scale = LOW + (HIGH - LOW) * torch.sigmoid(scales)
        times = self._unit * scale * torch.stack(levels)
        return Coefficients(times, torch.ones(steps, dtype=parameters.dtype), torch.stack(moves).cumsum(0))
