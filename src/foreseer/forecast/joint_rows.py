"""Joint fit of the rows of all branches of guidance, with separate computed steps per branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from foreseer.forecast.least_squares import ridge_solve, solve_branches

Prior = Callable[[np.ndarray, np.ndarray], np.ndarray]


@runtime_checkable
class JointMoments(Protocol):
    """Second moments of the features of B branches over T steps; branch b at step i has index b T + i."""

    def among(self, features: np.ndarray) -> np.ndarray:
        """Return the moments of K computed features with each other, shape (K, K)."""
        ...

    def wanted(self, features: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the moments of K computed features with the features to approximate, shape (K, N)."""
        ...

    def missed(self, features: np.ndarray, forecast: np.ndarray, until: int) -> np.ndarray:
        """Return the moments of K computed features with the sample's error at step ``until``, shape (K,).

        Args:
            features: indices of the computed features.
            forecast: guided outputs as combinations of features, shape (T, B T).
            until: a step, or T.
        """
        ...

    def effects(self, until: int) -> np.ndarray:
        """Return the effect of an error in each step's output on the sample at step ``until``, shape (T,)."""
        ...


def network_begins(handovers: Sequence[int], step: int) -> int:
    """Return the step at which the network that computes ``step`` began.

    >>> network_begins((5,), 4), network_begins((5,), 5), network_begins((), 5)
    (0, 5, 0)
    """
    return max((each for each in handovers if each <= step), default=0)


class KernelMoments:
    """Moments from a kernel: all features are those of the full run."""

    def __init__(
        self,
        pooled: Float64[np.ndarray, "N N"],
        guided: Float64[np.ndarray, "T N"],
        effects: Float64[np.ndarray, " T"],
    ) -> None:
        self._pooled = pooled
        self._guided = guided
        self._effects = effects

    def among(self, features: np.ndarray) -> np.ndarray:
        """Return recorded moments of features with each other."""
        return self._pooled[np.ix_(features, features)]

    def wanted(self, features: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return recorded moments with the full run's features."""
        return self._pooled[features][:, targets]

    def missed(self, features: np.ndarray, forecast: np.ndarray, until: int) -> np.ndarray:
        """Return moments with the final sample's error due to the steps before ``until``."""
        return self._pooled[features] @ (self._effects[:until] @ (self._guided - forecast)[:until])

    def effects(self, until: int) -> np.ndarray:
        """Return the effects on the final sample, which are used for every ``until``."""
        return self._effects


class JointRows:
    """Rows of one run, fitted segment by segment to the objective of ``KernelRows``.

    Args:
        moments: second moments of the features.
        mixing: the branches' coefficients in the guided output, shape (B,).
        steps: computed steps of each branch.
        total: number of steps T.
        ridge: relative to the features' mean square.
        branch_weight: weight of each branch's error relative to the guided combination's.
        handovers: steps at which another network begins; all branches compute there, and no earlier feature is used.
        feedback_gain: error feedback gain: share of the sample's error so far that the next skipped steps correct.

    Attributes:
        rows: each branch's rows over its own features, shape (B, T, T); reuse until they are fitted.
        cross: rows over the features of a branch called earlier in the step, by (branch, other).
        start: weights of the run's first sample in the guided outputs, shape (T,), where the moments have its index,
            B T; else ``None``.
    """

    def __init__(
        self,
        moments: JointMoments,
        mixing: Float64[np.ndarray, " B"],
        steps: Sequence[np.ndarray],
        total: int,
        *,
        ridge: float,
        branch_weight: float,
        feedback_gain: float = 0.0,
        handovers: Sequence[int] = (),
    ) -> None:
        self.moments = moments
        self.mixing = mixing
        self.rows = np.zeros((len(steps), total, total))
        for b, computed in enumerate(steps):
            last = np.searchsorted(computed, np.arange(total), side="right") - 1
            self.rows[b, np.arange(total), computed[last]] = 1.0
        self.cross: dict[tuple[int, int], np.ndarray] = {}
        self.start: Float64[np.ndarray, " T"] | None = None
        self._steps = steps
        self._handovers = handovers
        self._total = total
        self._ridge, self._branch_weight, self._feedback_gain = ridge, branch_weight, feedback_gain

    @property
    def forecast(self) -> Float64[np.ndarray, "T N"]:
        """Guided forecasts as combinations of features, shape (T, B T); one column more with ``start``."""
        forecast = np.hstack(list(self.mixing[:, None, None] * self.rows))
        for (branch, other), matrix in self.cross.items():
            forecast[:, other * self._total : (other + 1) * self._total] += self.mixing[branch] * matrix
        return forecast if self.start is None else np.column_stack([forecast, self.start])

    def fit(self, step: int, end: int, prior: Prior | None = None, *, sum_to_one: bool = False) -> None:
        """Fit the rows of ``step`` for the branches that skip it, and of the steps after it up to ``end``."""
        branches = range(len(self._steps))
        skipping = [b for b in branches if step not in self._steps[b]]
        if skipping:
            self._fit(skipping, np.array([step]), prior, sum_to_one=sum_to_one)
        after = np.arange(step + 1, end)
        if after.size:
            self._fit(list(branches), after, prior, sum_to_one=sum_to_one)
            if self._feedback_gain:
                self._correct(after)

    def _usable(self, step: int) -> list[np.ndarray]:
        """Each branch's computed steps from the beginning of the network that serves ``step``."""
        begin = network_begins(self._handovers, step)
        return [branch[branch >= begin] for branch in self._steps]

    def _fit(self, forecast: list[int], steps: np.ndarray, prior: Prior | None, *, sum_to_one: bool) -> None:
        """Fit the rows of the branches ``forecast`` at ``steps``.

        Rows weigh the branch's own features and, if other branches compute at the step, features of earlier branches.
        """
        computed = [branch[branch <= steps[0]] for branch in self._usable(int(steps[0]))]
        others = [range(b) if len(forecast) < len(computed) else range(0) for b in forecast]
        sources = [[(c, computed[c]) for c in (b, *before)] for b, before in zip(forecast, others, strict=True)]
        indices = [np.concatenate([self._total * c + at for c, at in source]) for source in sources]
        features = np.unique(np.concatenate(indices))
        priors = None
        if prior is not None:
            priors = [np.zeros((steps.size, index.size)) for index in indices]
            for b, rows in zip(forecast, priors, strict=True):
                rows[:, : computed[b].size] = prior(computed[b], steps)
        fitted = solve_branches(
            self.moments.among(features),
            self.moments.wanted(features, np.add.outer(self._total * np.array(forecast), steps)),
            self.mixing[forecast],
            [np.searchsorted(features, index) for index in indices],
            ridge=self._ridge,
            branch_weight=self._branch_weight,
            priors=priors,
            sum_to_one=sum_to_one,
        )
        for b, source, weights in zip(forecast, sources, fitted, strict=True):
            self.rows[b, steps] = 0.0
            for (c, at), part in zip(source, _split(weights, source), strict=True):
                blank = np.zeros((self._total, self._total))
                matrix = self.rows[b] if c == b else self.cross.setdefault((b, c), blank)
                matrix[np.ix_(steps, at)] = part

    def _correct(self, steps: np.ndarray) -> None:
        """Add error feedback: ``steps`` correct a share of the sample's predicted error at their end."""
        sources = [(b, branch[branch < steps[0]]) for b, branch in enumerate(self._usable(int(steps[0])))]
        features = np.concatenate([self._total * b + at for b, at in sources])
        if self.start is not None:
            features = np.append(features, self._total * len(self._steps))
        until = int(steps[-1]) + 1
        system = self.moments.among(features)
        strength = self._ridge * float(system.trace()) / features.size
        weights = self._feedback_gain * ridge_solve(
            system, self.moments.missed(features, self.forecast, until), strength
        )
        effects = self.moments.effects(until)[steps]
        share = effects / max(float(effects @ effects), np.finfo(np.float64).tiny)
        if self.start is not None:
            self.start[steps] = share * weights[-1]
            weights = weights[:-1]
        for (b, at), part in zip(sources, _split(weights, sources), strict=True):
            self.rows[b][np.ix_(steps, at)] += np.outer(share, part) / self.mixing[b]


def _split(weights: np.ndarray, sources: Sequence[tuple[int, np.ndarray]]) -> list[np.ndarray]:
    """Split ``weights`` by the branches whose features they multiply."""
    return np.split(weights, np.cumsum([at.size for _, at in sources])[:-1], axis=-1)
