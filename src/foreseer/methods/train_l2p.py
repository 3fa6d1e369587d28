"""L2P's training on second moments instead of trajectories."""

from __future__ import annotations

import numpy as np

from foreseer.forecast import L2P
from foreseer.kernel import Kernel


def train_l2p(
    kernel: Kernel,
    *,
    epochs: int = 201,
    learning_rate: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> L2P:
    r"""Train L2P's matrix as published (arXiv 2604.26365).

    Identity start, one step ahead, teacher-forced, Adam. The loss is the mean over s, prompts and elements of
    $(F_{s+1} - \sum_{j \le s} W_{sj} F_j)^2$, s = 0 to T - 2. It is quadratic and the batch is full, so its gradient
    depends on the Gram matrix only, $\partial / \partial W_{sj} = \frac{2}{T - 1} ((W G)_{sj} - G_{s+1,j})$, and Adam
    takes the same steps as on the trajectories.

    Args:
        kernel: second moments of full runs.
        epochs: number of Adam steps.
        learning_rate: Adam's learning rate.
        betas: Adam's decay rates.
        epsilon: Adam's epsilon.

    Returns:
        The forecaster, for runs with as many steps as the kernel.
    """
    gram = kernel.pooled
    steps = gram.shape[0]
    trained = np.tril(np.ones((steps, steps)))
    trained[-1] = 0.0
    target = np.vstack([gram[1:], np.zeros(steps)])
    matrix = np.eye(steps)
    first, second = np.zeros_like(matrix), np.zeros_like(matrix)
    for epoch in range(1, epochs + 1):
        gradient = 2.0 / max(1, steps - 1) * (matrix @ gram - target) * trained
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        step = first / (1 - betas[0] ** epoch) / (np.sqrt(second / (1 - betas[1] ** epoch)) + epsilon)
        matrix = matrix - learning_rate * step
    return L2P(np.tril(matrix))
