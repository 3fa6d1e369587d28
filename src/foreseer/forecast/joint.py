"""Rows of all branches of guidance together, on second moments, each branch at computed steps of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from foreseer.forecast.least_squares import ridge_solve, solve_branches
from foreseer.kernel import Branches

Prior = Callable[[np.ndarray, np.ndarray], np.ndarray]


@runtime_checkable
class JointMoments(Protocol):
    """Second moments of the features of B branches over T steps; that of branch b at step i is called b T + i."""

    def among(self, features: np.ndarray) -> np.ndarray:
        """Moments of some computed features among themselves, shape (K, K)."""
        ...

    def wanted(self, features: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Moments of K computed features with those that forecasts are to come close to: a row a feature."""
        ...

    def missed(self, features: np.ndarray, forecast: np.ndarray, until: int) -> np.ndarray:
        """Moments of K computed features with what the sample at step ``until`` lacks under ``forecast``.

        Args:
            features: which.
            forecast: shape (T, B T), guided outputs as combinations of features.
            until: a step, or T.
        """
        ...

    def effects(self, until: int) -> np.ndarray:
        """What an error of each step's output does to the sample at step ``until``, shape (T,)."""
        ...


class KernelMoments:
    """The moments of a kernel, features being those of the full run."""

    def __init__(self, branches: Branches, effects: Float64[np.ndarray, " T"]) -> None:
        self._pooled = branches.pooled
        self._guided = branches.guided
        self._effects = effects

    def among(self, features: np.ndarray) -> np.ndarray:
        """As recorded."""
        return self._pooled[np.ix_(features, features)]

    def wanted(self, features: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The forecasts are to come close to the full run's features."""
        return self._pooled[features][:, targets]

    def missed(self, features: np.ndarray, forecast: np.ndarray, until: int) -> np.ndarray:
        """What the final sample lacks for the errors of the steps before ``until``."""
        return self._pooled[features] @ (self._effects[:until] @ (self._guided - forecast)[:until])

    def effects(self, until: int) -> np.ndarray:
        """Those on the final sample, which the sample on the way is taken to share."""
        return self._effects


class JointRows:
    """Fits the rows of one run segment by segment; see :class:`foreseer.forecast.KernelRows` for what they minimise.

    Args:
        moments: what is known of the features.
        mixing: the branches' coefficients in the guided output.
        steps: for each branch its computed steps.
        total: T.
        ridge: relative to the features' mean square.
        own: what each branch's own forecast counts beside the guided combination.
        steer: the share of what was missed so far that the next skipped steps make good.

    Attributes:
        rows: shape (B, T, T), each branch's rows over its own features; reuse where they are not fitted yet.
        cross: by (branch, other), rows over the features of a branch called before.
    """

    def __init__(
        self,
        moments: JointMoments,
        mixing: Float64[np.ndarray, " B"],
        steps: Sequence[np.ndarray],
        total: int,
        *,
        ridge: float,
        own: float,
        steer: float = 0.0,
    ) -> None:
        self.moments = moments
        self.mixing = mixing
        self.rows = np.zeros((len(steps), total, total))
        for b, one in enumerate(steps):
            self.rows[b, np.arange(total), one[np.searchsorted(one, np.arange(total), side="right") - 1]] = 1.0
        self.cross: dict[tuple[int, int], np.ndarray] = {}
        self._steps = steps
        self._total = total
        self._ridge, self._own, self._steer = ridge, own, steer

    @property
    def forecast(self) -> Float64[np.ndarray, "T N"]:
        """The guided forecasts as combinations of features, shape (T, B T)."""
        found = np.hstack(list(self.mixing[:, None, None] * self.rows))
        for (branch, other), matrix in self.cross.items():
            found[:, other * self._total : (other + 1) * self._total] += self.mixing[branch] * matrix
        return found

    def fit(self, step: int, end: int, prior: Prior | None = None, *, sum_to_one: bool = False) -> None:
        """Fit the rows of ``step``, at which some branch computes, and of the skipped steps after it up to ``end``."""
        every = range(len(self._steps))
        alone = [b for b in every if step not in self._steps[b]]
        if alone:
            self._fit(alone, np.array([step]), prior, sum_to_one=sum_to_one)
        after = np.arange(step + 1, end)
        if after.size:
            self._fit(list(every), after, prior, sum_to_one=sum_to_one)
            if self._steer:
                self._correct(after)

    def _fit(self, forecast: list[int], steps: np.ndarray, prior: Prior | None, *, sum_to_one: bool) -> None:
        """Rows of the branches ``forecast`` at ``steps``.

        They weigh a branch's own features and, where others compute at that step, what those called before gave.
        """
        known = [one[one <= steps[0]] for one in self._steps]
        others = [range(b) if len(forecast) < len(known) else range(0) for b in forecast]
        sources = [[(c, known[c]) for c in (b, *before)] for b, before in zip(forecast, others, strict=True)]
        names = [np.concatenate([self._total * c + one for c, one in of_one]) for of_one in sources]
        features = np.unique(np.concatenate(names))
        priors = None
        if prior is not None:
            priors = [np.zeros((steps.size, one.size)) for one in names]
            for b, rows in zip(forecast, priors, strict=True):
                rows[:, : known[b].size] = prior(known[b], steps)
        found = solve_branches(
            self.moments.among(features),
            self.moments.wanted(features, np.add.outer(self._total * np.array(forecast), steps)),
            self.mixing[forecast],
            [np.searchsorted(features, one) for one in names],
            ridge=self._ridge,
            own=self._own,
            priors=priors,
            sum_to_one=sum_to_one,
        )
        for b, of_one, weights in zip(forecast, sources, found, strict=True):
            self.rows[b, steps] = 0.0
            for (c, one), part in zip(of_one, _parts(weights, of_one), strict=True):
                blank = np.zeros((self._total, self._total))
                matrix = self.rows[b] if c == b else self.cross.setdefault((b, c), blank)
                matrix[np.ix_(steps, one)] = part

    def _correct(self, steps: np.ndarray) -> None:
        """Have ``steps`` make good a share of what the sample at their end would lack, as far as features tell."""
        known = [(b, one[one < steps[0]]) for b, one in enumerate(self._steps)]
        features = np.concatenate([self._total * b + one for b, one in known])
        until = int(steps[-1]) + 1
        system = self.moments.among(features)
        strength = self._ridge * float(system.trace()) / features.size
        weights = self._steer * ridge_solve(system, self.moments.missed(features, self.forecast, until), strength)
        effects = self.moments.effects(until)[steps]
        share = effects / max(float(effects @ effects), np.finfo(np.float64).tiny)
        for (b, one), part in zip(known, _parts(weights, known), strict=True):
            self.rows[b][np.ix_(steps, one)] += np.outer(share, part) / self.mixing[b]


def _parts(weights: np.ndarray, sources: Sequence[tuple[int, np.ndarray]]) -> list[np.ndarray]:
    """``weights`` by the branches whose features they belong to."""
    return np.split(weights, np.cumsum([one.size for _, one in sources])[:-1], axis=-1)
