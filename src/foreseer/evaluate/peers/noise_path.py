"""Noise levels of a few steps, the meaning of the network's output, and formulas as tableaus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foreseer.evaluate.peers.base import PeerError
from foreseer.evaluate.peers.tableau import Tableau

# Where no data is left in a sample, the ratio of noise to data is infinite: keep this share of it.
LEAST_DATA = 1e-6

Rule = Callable[[int, list[np.ndarray], list[np.ndarray]], np.ndarray]


@dataclass(frozen=True, eq=False)
class NoisePath:
    r"""Levels of N steps: a sample is $x = \alpha x_{\text{data}} + \sigma \varepsilon$.

    Attributes:
        times: shape (N + 1,): what the network gets, in the unit of the scheduler's ``timesteps``; the last, where the
            run ends, is never given to the network.
        data: shape (N + 1,): $\alpha$.
        noise: shape (N + 1,): $\sigma$.
        tau: shape (N + 1,): time of the ODE $dz/d\tau = h$ that solvers integrate: $\sigma$ for flow matching, else
            $\sigma / \alpha$.
        noise_of_sample: shape (N,): p in $\varepsilon = p x + q F$, with F the network's output.
        noise_of_output: shape (N,): q.
        flow: whether F is the velocity $dx/d\sigma$ of flow matching ($\alpha = 1 - \sigma$).
    """

    times: np.ndarray
    data: np.ndarray
    noise: np.ndarray
    tau: np.ndarray
    noise_of_sample: np.ndarray
    noise_of_output: np.ndarray
    flow: bool

    @classmethod
    def of_flow(cls, levels: Sequence[float] | np.ndarray, unit: float = 1000.0) -> NoisePath:
        """Flow matching on the noise levels sigma, with the level where the run ends.

        Args:
            levels: shape (N + 1,), decreasing.
            unit: the network's time at level 1.

        >>> NoisePath.of_flow([1.0, 0.5, 0.0]).times.tolist()
        [1000.0, 500.0, 0.0]
        """
        tau = np.asarray(levels, dtype=np.float64)
        data = np.maximum(1.0 - tau, LEAST_DATA)
        return cls(tau * unit, data, 1.0 - data, tau, np.ones(len(tau) - 1), data[:-1], True)

    @classmethod
    def from_scheduler(cls, scheduler: Any, first_step: int = 0) -> NoisePath:
        """Levels of a flow-matching scheduler, or of diffusers' DDIM, after ``set_timesteps``.

        Raises:
            PeerError: another scheduler.
        """
        if first_step:
            raise PeerError("Solvers of a few steps are for runs that begin from noise; this one begins later.")
        times = np.asarray(scheduler.timesteps.cpu(), dtype=np.float64)
        if is_flow(scheduler):
            levels = np.asarray(scheduler.sigmas.cpu(), dtype=np.float64)[: len(times) + 1]
            if len(levels) == len(times):
                levels = np.append(levels, 0.0)
            return replace(cls.of_flow(levels), times=np.append(times, 0.0))
        if type(scheduler).__name__ != "DDIMScheduler":
            raise PeerError(f"{type(scheduler).__name__} has no noise levels that solvers here know: expected DDIM's.")
        kept = scheduler.alphas_cumprod.double().numpy()
        before = int(times[-1]) - scheduler.config.num_train_timesteps // len(times)
        last = kept[before] if before >= 0 else float(scheduler.final_alpha_cumprod)
        shares = np.append(kept[times.astype(int)], last).clip(min=LEAST_DATA**2)
        data, noise = np.sqrt(shares), np.sqrt(1.0 - shares)
        of_sample, of_output = _noise_from(scheduler.config.prediction_type, data[:-1], noise[:-1])
        return cls(np.append(times, max(before, 0.0)), data, noise, noise / data, of_sample, of_output, False)

    @property
    def steps(self) -> int:
        """N."""
        return len(self.times) - 1

    @property
    def scale(self) -> np.ndarray:
        r"""Sample x over state z, shape (N + 1,): 1 for flow matching, else $\alpha$."""
        return np.ones_like(self.data) if self.flow else self.data

    @property
    def slope_of_sample(self) -> np.ndarray:
        """Factor p in h = p x + q F, shape (N,): h is F itself for flow matching, else the noise."""
        return np.zeros(self.steps) if self.flow else self.noise_of_sample

    @property
    def slope_of_output(self) -> np.ndarray:
        """Factor q in h = p x + q F, shape (N,)."""
        return np.ones(self.steps) if self.flow else self.noise_of_output

    def select(self, steps: Sequence[int]) -> NoisePath:
        """The path of fewer steps: those with these indices, ending where this one ends."""
        chosen = np.asarray(steps, dtype=np.int64)
        ends = np.append(chosen, self.steps)
        levels = (self.times[ends], self.data[ends], self.noise[ends], self.tau[ends])
        return NoisePath(*levels, self.noise_of_sample[chosen], self.noise_of_output[chosen], self.flow)


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is one of flow matching: its samples are (1 - sigma) data + sigma noise."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas", False))


def make_tableau(path: NoisePath, rule: Rule, settings: dict[str, Any], *, noise: bool = True) -> Tableau:
    r"""Tableau of a solver that is linear in the samples and outputs.

    The solver runs once on unit vectors: $x_0$ is unit vector 0, output i is unit vector i + 1. The samples that come
    back are the rows of the tableau.

    Args:
        path: noise levels.
        rule: from (step i, samples 0 to i, slopes 0 to i) to sample i + 1.
        settings: of the tableau.
        noise: whether slopes are noise predictions, or the right side h of the path's own ODE.
    """
    units = np.eye(path.steps + 1)
    of_sample, of_output = (
        (path.noise_of_sample, path.noise_of_output) if noise else (path.slope_of_sample, path.slope_of_output)
    )
    samples, slopes = [units[0]], []
    for step in range(path.steps):
        slopes.append(of_sample[step] * samples[step] + of_output[step] * units[step + 1])
        samples.append(rule(step, samples, slopes))
    rows = np.stack(samples[1:])
    return Tableau(path.times[:-1], rows[:, 0], np.tril(rows[:, 1:]), settings=settings)


def lagrange_weights(nodes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values of the Lagrange polynomials of ``nodes``, shape (len(nodes), len(at)).

    >>> lagrange_weights(np.array([0.0, 1.0]), np.array([3.0])).ravel().tolist()
    [-2.0, 3.0]
    """
    values = np.ones((len(nodes), len(at)))
    for row, node in enumerate(nodes):
        for other in np.delete(nodes, row):
            values[row] *= (at - other) / (node - other)
    return values


def _noise_from(kind: str, data: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors p and q in noise = p sample + q output, by what the network predicts."""
    if kind == "epsilon":
        return np.zeros_like(data), np.ones_like(data)
    if kind == "v_prediction":
        return noise, data
    if kind == "sample":
        return 1.0 / noise, -data / noise
    raise PeerError(f"Solvers here know no prediction type {kind!r}: expected epsilon, v_prediction or sample.")
