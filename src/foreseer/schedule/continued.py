"""Fast search for the best remaining steps of a run that has already computed some."""

from __future__ import annotations

import math

import numpy as np

from foreseer.forecast.base import Forecaster
from foreseer.kernel import Kernel
from foreseer.schedule.search import REFINED, Search, spread, stride

KEPT = 2  # prefixes kept per length and last step
LONGEST_GAP = 3  # between two computed steps, in mean gaps of the remaining run

Kept = dict[tuple[tuple[int, ...], int], tuple[int, ...]]


class Continued(Search):
    """Search for the sets of steps with the least expected final error that extend a given prefix.

    Results are cached by prefix, and depend on it alone. A run also keeps the sets found for its own prefixes
    (``kept``), so that a run that behaves as expected stays with its initial set. Long runs are searched on every n-th
    step first, as in :class:`foreseer.schedule.Optimal`.

    Args:
        kernel: second moments on the run's grid.
        forecaster: source of the rows.
    """

    def __init__(self, kernel: Kernel, forecaster: Forecaster) -> None:
        super().__init__(kernel, forecaster)
        self.total = len(kernel.grid)
        self._every = stride(self.total)
        self._best_after: Kept = {}

    def best_after(self, begun: tuple[int, ...], nfe: int, kept: Kept | None = None) -> tuple[int, ...]:
        """Return the best set found of ``nfe`` steps that starts with ``begun``.

        Args:
            begun: the steps computed so far, ascending from 0.
            nfe: total number of computed steps, from ``len(begun)`` to :meth:`most_after`.
            kept: sets that the run found before, by prefix and number of steps; extended.
        """
        kept = {} if kept is None else kept
        best = kept.get((begun, nfe))
        if best is None:
            best = self._best_after.get((begun, nfe))
            if best is None:
                best = self._best_after[begun, nfe] = self._extended(begun, nfe) if nfe > len(begun) else begun
            for length in range(len(begun), nfe + 1):
                kept.setdefault((best[:length], nfe), best)
        return best

    def most_after(self, begun: tuple[int, ...]) -> int:
        """Return the largest possible total of computed steps after ``begun``."""
        return len(begun) + self.total - 1 - begun[-1]

    def fewest_within(
        self, begun: tuple[int, ...], error: float, most: int, guess: int, kept: Kept | None = None
    ) -> tuple[int, ...]:
        """Return the smallest set with expected error at most ``error``, else the best set of ``most`` steps.

        Args:
            begun: the steps computed so far.
            error: expected root mean square error of the final sample.
            most: maximum total number of computed steps.
            guess: initial guess of that number.
            kept: as for :meth:`best_after`.
        """
        kept = {} if kept is None else kept
        most = max(len(begun), min(most, self.most_after(begun)))
        count = max(len(begun), min(guess, most))
        pace = self._every
        while count < most and self.cost(self.best_after(begun, count, kept)) > error:
            count = min(count + pace, most)
        while pace:
            while count - pace >= len(begun) and self.cost(self.best_after(begun, count - pace, kept)) <= error:
                count -= pace
            pace //= 2
        return self.best_after(begun, count, kept)

    def _extended(self, begun: tuple[int, ...], nfe: int) -> tuple[int, ...]:
        if self._every == 1:
            return self._slide(self._beam(begun, nfe - len(begun)), len(begun))
        last, missing = begun[-1], nfe - len(begun)
        places = (self.total - 1) // self._every - last // self._every
        coarse = min(missing, max(places // 2, missing * places // (self.total - 1 - last)))
        after = [step - last for step in self._beam(begun, coarse)[len(begun) - 1 :]]
        steps = (*begun[:-1], *(last + step for step in spread(after, missing + 1, self.total - last)))
        best = steps if nfe > REFINED else self._halved(steps, self._every, len(begun))
        self._errors.clear()  # large on a long run
        return best

    def _beam(self, begun: tuple[int, ...], missing: int) -> tuple[int, ...]:
        """Extend ``begun`` by ``missing`` multiples of the stride."""
        last, every = begun[-1], self._every
        reach = max(2 * every, math.ceil(LONGEST_GAP * (self.total - last) / (missing + 1)))
        self._ahead = reach
        prefixes = {last: [begun]}
        for count in range(missing):
            farthest = (self.total - 1) // every * every - (missing - count - 1) * every
            longer: dict[int, list[tuple[float, tuple[int, ...]]]] = {}
            for end, kept in prefixes.items():
                ends = np.arange((end // every + 1) * every, min(farthest, end + reach) + 1, every)
                for steps in kept if ends.size else ():
                    for step, square in zip(ends.tolist(), self._squares(steps, ends).tolist(), strict=True):
                        longer.setdefault(step, []).append((square, (*steps, step)))
            prefixes = {step: [steps for _, steps in sorted(scored)[:KEPT]] for step, scored in longer.items()}
        return min((steps for kept in prefixes.values() for steps in kept), key=self.cost)
