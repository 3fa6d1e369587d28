r"""iPNDM: Adams-Bashforth coefficients for equal steps, order 1 to 4, on the pipeline's levels.

$$z_{i+1} = z_i + (\tau_{i+1} - \tau_i) \sum_{j=0}^{3} \beta_j h_{i-j}, \qquad
\beta = (55, -59, 37, -9) / 24$$

h is the network's velocity for flow matching, the noise prediction elsewhere.

Source: Zhang and Chen, arXiv 2204.13902 (CC BY 4.0): the pseudo linear multistep method of Liu et al., arXiv
2202.09778, with lower orders at the first steps in place of Runge-Kutta. diffusers' IPNDMScheduler has another noise
schedule built in and does not take flow matching's; written from the papers.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from foreseer.evaluate.peers.noise_path import NoisePath, make_tableau
from foreseer.evaluate.peers.tableau import Tableau

# By order, the newest output first.
ADAMS_BASHFORTH: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
ORDERS = (4, 3, 2)  # the first is the paper's


def ipndm_tableau(path: NoisePath, order: int = ORDERS[0]) -> Tableau:
    """The method of an order on a path.

    >>> ipndm_tableau(NoisePath.of_flow([1.0, 0.5, 0.0])).weights.tolist()
    [[-0.5, 0.0], [-0.25, -0.75]]
    """
    mixing = ipndm_weights(path.steps, order)

    def rule(step: int, samples: list[np.ndarray], slopes: list[np.ndarray]) -> np.ndarray:
        slope = sum(weight * slope for weight, slope in zip(mixing[step], slopes, strict=False))
        moved = samples[step] / path.scale[step] + (path.tau[step + 1] - path.tau[step]) * slope
        return path.scale[step + 1] * moved

    return make_tableau(path, rule, {"solver": "iPNDM", "order": order}, noise=False)


def ipndm_weights(steps: int, order: int) -> np.ndarray:
    """Weights over the slopes so far, shape (steps, steps), lower triangular; rows sum to 1."""
    weights = np.zeros((steps, steps))
    for step in range(steps):
        newest_first = ADAMS_BASHFORTH[min(step + 1, order)]
        weights[step, step - len(newest_first) + 1 : step + 1] = newest_first[::-1]
    return weights


def ipndm_candidates(path: NoisePath) -> list[Tableau]:
    """The method of each order, the published one first."""
    return list(map(partial(ipndm_tableau, path), ORDERS))
