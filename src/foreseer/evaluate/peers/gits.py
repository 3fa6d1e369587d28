r"""Levels learned by dynamic programming on the reference trajectories (GITS), for Euler and for UniPC.

Which n of the reference's T steps to visit: the cost of going from step i to step j in one Euler step is its local
error on the reference trajectory, and errors made early grow by a factor $\gamma$ with each step that follows:

$$c_{ij} = \mathbb{E} \lVert z_i + (\tau_j - \tau_i) h_i - z_j \rVert, \qquad
V_k(i) = \min_{j > i} c_{ij} + \gamma V_{k-1}(j), \qquad V_1(i) = c_{iT}$$

$\gamma$ is chosen on the held-out prompts, by the solver's own error.

Source: Chen et al., "On the Trajectory Regularity of ODE-based Diffusion Sampling", arXiv 2405.11326 (code under Apache
2.0, not copied). "Optimal Stepsize for Diffusion Sampling" (OSS), arXiv 2503.21774, is the same programme with the
student's own samples in place of the reference's, at n T further passes per prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foreseer.calibration.sampler import sampler_matrix
from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.calibration_runs import CalibrationRuns
from foreseer.evaluate.peers.ipndm import ipndm_tableau
from foreseer.evaluate.peers.noise_path import NoisePath
from foreseer.evaluate.peers.solvers import set_levels, solver_for
from foreseer.evaluate.peers.tableau import Tableau

GROWTHS = (1.15, 1.0, 1.05, 1.1, 1.2, 1.3, 0.9, 0.8)  # the first is the published default


def local_errors(runs: CalibrationRuns) -> np.ndarray:
    """c_ij over the fitted prompts, shape (T, T + 1); infinite for j <= i."""
    path = runs.path(runs.steps)
    costs = np.full((path.steps, path.steps + 1), np.inf)
    later = np.triu_indices(path.steps, 1, path.steps + 1)
    costs[later] = 0.0
    for samples, outputs in runs.trajectories:
        for step in range(path.steps):
            slope = path.slope_of_sample[step] * samples[step] + path.slope_of_output[step] * outputs[step]
            for end in range(step + 1, path.steps + 1):
                move = float(path.tau[end] - path.tau[step]) * slope
                error = samples[step] / float(path.scale[step]) + move - samples[end] / float(path.scale[end])
                costs[step, end] += float(error.norm()) / len(runs.trajectories)
    return costs


def best_steps(costs: np.ndarray, count: int, growth: float) -> list[int]:
    """The ``count`` steps, the first among them, whose summed cost is least.

    Args:
        costs: shape (T, T + 1): of going from step i to step j, T being the end.
        count: of steps, 1 to T.
        growth: by which the cost of what follows a step is multiplied.

    >>> costs = np.array([[np.inf, 1.0, 4.0, 9.0], [np.inf, np.inf, 1.0, 2.0], [np.inf, np.inf, np.inf, 1.0]])
    >>> best_steps(costs, 2, growth=1.0), best_steps(costs, 3, growth=1.0)
    ([0, 1], [0, 1, 2])
    """
    total = len(costs)
    if not 1 <= count <= total:
        raise PeerError(f"{count} steps cannot be chosen of {total}: ask for 1 to {total}.")
    value, choices = costs[:, total], []
    for _ in range(count - 1):
        onward = costs[:, :total] + growth * value
        choices.append(onward.argmin(axis=1))
        value = onward.min(axis=1)
    steps = [0]
    for choice in reversed(choices):
        steps.append(int(choice[steps[-1]]))
    return steps


def gits_candidates(runs: CalibrationRuns, count: int, *, unipc: bool) -> list[Tableau]:
    """Euler or UniPC on the levels of each growth factor, each set of levels once."""
    path, costs = runs.path(runs.steps), runs.once("local errors", lambda: local_errors(runs))
    chosen = {tuple(best_steps(costs, count, growth)): growth for growth in reversed(GROWTHS)}
    return [
        _tableau(runs, path.select(steps), {"levels": "GITS", "growth": growth, "steps": list(steps)}, unipc=unipc)
        for steps, growth in sorted(chosen.items(), key=lambda item: GROWTHS.index(item[1]))
    ]


def unipc_tableau(own: Any, path: NoisePath) -> Tableau:
    """UniPC of order 2 on a path, for a pipeline whose scheduler is ``own``."""
    scheduler = solver_for("unipc", own)
    set_levels(scheduler, path.noise if path.flow else path.tau, path.times[:-1])
    rows = sampler_matrix(scheduler)[1:]
    return Tableau(path.times[:-1], rows[:, 0], np.tril(rows[:, 1:]), settings={"solver": "UniPC", "order": 2})


def _tableau(runs: CalibrationRuns, path: NoisePath, settings: dict[str, Any], *, unipc: bool) -> Tableau:
    made = unipc_tableau(runs.pipe.scheduler, path) if unipc else ipndm_tableau(path, order=1)
    solver: Sequence[str] = "UniPC" if unipc else "Euler"
    return Tableau(made.times, made.start, made.weights, settings={"solver": solver, **settings})
