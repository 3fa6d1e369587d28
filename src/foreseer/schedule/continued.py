"""The best steps to go on with, after some have been computed: searched as :class:`Optimal` is, but for speed."""

from __future__ import annotations

import math

import numpy as np

from foreseer.forecast.base import Forecaster
from foreseer.kernel import Kernel
from foreseer.schedule.optimal import Search

KEPT = 2  # beginnings of each length and last step
LONGEST_GAP = 3  # between two computed steps, in mean gaps of what is left


class Continued(Search):
    """Sets of computed steps of least expected final error among those that begin with given steps.

    A set that was found for a beginning also serves its own longer beginnings: a run that goes as was expected keeps
    to the set that it began with. All that is found is kept.

    Args:
        kernel: second moments on the run's grid.
        forecaster: whose rows will be used.
    """

    def __init__(self, kernel: Kernel, forecaster: Forecaster) -> None:
        super().__init__(kernel, forecaster)
        self.total = len(kernel.grid)
        self._best_after: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}

    def best_after(self, begun: tuple[int, ...], nfe: int) -> tuple[int, ...]:
        """The best set found of ``nfe`` steps that begins with ``begun``.

        Args:
            begun: the computed steps, ascending from 0.
            nfe: how many steps compute in all: from those that have to those that can.
        """
        found = self._best_after.get((begun, nfe))
        if found is None:
            found = self._slide(self._beam(begun, nfe), len(begun)) if nfe > len(begun) else begun
            for known in range(len(begun), nfe + 1):
                self._best_after.setdefault((found[:known], nfe), found)
        return found

    def most_after(self, begun: tuple[int, ...]) -> int:
        """How many steps a run can compute in all that has computed ``begun``, and skipped those between."""
        return len(begun) + self.total - 1 - begun[-1]

    def fewest_within(self, begun: tuple[int, ...], error: float, most: int, guess: int) -> tuple[int, ...]:
        """The smallest set that keeps ``error``; if none of up to ``most`` steps does, the best of ``most``.

        Args:
            begun: the computed steps.
            error: the expected root mean square error of the final sample to keep.
            most: how many steps may compute in all.
            guess: how many it may be.
        """
        most = max(len(begun), min(most, self.most_after(begun)))
        count = max(len(begun), min(guess, most))
        while count < most and self.cost(self.best_after(begun, count)) > error:
            count += 1
        while count > len(begun) and self.cost(self.best_after(begun, count - 1)) <= error:
            count -= 1
        return self.best_after(begun, count)

    def _beam(self, begun: tuple[int, ...], nfe: int) -> tuple[int, ...]:
        last, missing = begun[-1], nfe - len(begun)
        reach = max(2, math.ceil(LONGEST_GAP * (self.total - last) / (missing + 1)))
        self._ahead = reach
        beginnings = {last: [begun]}
        for count in range(missing):
            longer: dict[int, list[tuple[float, tuple[int, ...]]]] = {}
            for end, kept in beginnings.items():
                ends = range(end + 1, min(self.total - missing + count, end + reach) + 1)
                for steps in kept:
                    for step, square in zip(ends, self._squares(steps, ends), strict=True):
                        longer.setdefault(step, []).append((square, (*steps, step)))
            beginnings = {step: [steps for _, steps in sorted(found)[:KEPT]] for step, found in longer.items()}
        return min((steps for kept in beginnings.values() for steps in kept), key=self.cost)

    def _squares(self, before: tuple[int, ...], ends: range) -> list[float]:
        """Square of the sample's expected error at each of ``ends``, from the step after the last computed one on."""
        last = before[-1]
        error, answered = self._reach(before[:-1], last) if len(before) > 1 else (np.zeros(1), 0.0)
        errors = np.broadcast_to(error, (len(ends), self._root.shape[1])).copy()
        if len(ends) > 1:
            errors[1:] += self._skipped(before, ends[-1])[: len(ends) - 1]
        answers = [self._kernel.response_to(last, end) for end in ends]
        return (np.einsum("nk,nk->n", errors, errors) + answered + float(error @ error) * np.array(answers)).tolist()
