"""Computed steps of each branch of guidance, chosen together for a budget in calls of the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from foreseer.checks import check_count, check_kind
from foreseer.errors import ScheduleError
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.schedule.base import Schedule
from foreseer.schedule.optimal import root_of, stride, thinned

# A set of calls: ascending steps, each with the branches that compute there as bits (branch b: 2**b).
Calls = tuple[tuple[int, int], ...]

RIDGE = 1e-6
SPREAD = 1.5  # the n-th of N steps to begin with is (n / N) ** SPREAD of the run
BETTER = 1e-6  # relative: what a move must gain


@dataclass(frozen=True, eq=False)
class Joint(Schedule):
    """Each branch computes at steps of its own: those calls that leave the least to be told of the final sample.

    Args:
        kernel: second moments from calibration, those of branches among them.
        evaluations: calls of the network in a run, all branches together.

    Raises:
        ScheduleError: the kernel knows no branches, or not every branch can be called once.
    """

    kernel: Kernel = field(repr=False)
    evaluations: int
    _found: dict[bytes, Calls] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_kind("kernel", self.kernel, Kernel, ScheduleError)
        check_count("evaluations", self.evaluations, ScheduleError, least=1)
        branches = self.kernel.branches
        if branches is None:
            raise ScheduleError("This kernel knows no branches of guidance, which could be called apart: give nfe.")
        if self.evaluations < len(branches.names):
            raise ScheduleError(f"{self.evaluations} evaluations do not suffice to call each of {branches.names} once.")

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """The steps at which any branch computes."""
        return tuple(step for step, _ in self._calls(grid.tail(first_step)))

    def branch_steps(self, grid: Grid, first_step: int = 0) -> Mapping[str, tuple[int, ...]]:
        """The computed steps of the branches that do not compute at all of them."""
        assert self.kernel.branches is not None
        calls = self._calls(grid.tail(first_step))
        steps = {
            name: tuple(step for step, who in calls if who >> b & 1)
            for b, name in enumerate(self.kernel.branches.names)
        }
        return {name: own for name, own in steps.items() if len(own) < len(calls)}

    def _calls(self, grid: Grid) -> Calls:
        found = self._found.get(grid.key)
        if found is None:
            found = self._found[grid.key] = JointSearch(self.kernel.on(grid)).best(self.evaluations)
        return found

    def _computed_steps(self, steps: int) -> Iterable[int]:
        if steps != len(self.kernel.grid):
            raise ScheduleError(
                f"The kernel was recorded on {len(self.kernel.grid)} steps; for one of {steps} give the grid: on(grid)."
            )
        return self.on(self.kernel.grid)


class JointSearch:
    r"""Errors that sets of calls leave, and the search for the least.

    The sample at step e lacks what no row can tell of $v_e = \sum_{i<e} f_i g_i$ from the features computed before e
    (f: what each step does to the final sample, g: guided outputs): $e_e = v_e - P v_e$. Rows that steer come near it.
    Each branch answers to the error that it saw when it was last computed, at step $s_b$, and guidance adds the answers
    up: until the next call, by $a \sum_b k_b \tau_{s_b}^2 e_{s_b}$ (a: the kernel's response, $\tau$: what remains of
    the run). Branches that see the same sample answer alike, and their answers cancel to those of one branch; called
    apart, they do not. The cost is $|e_T|^2 + \sum a^2 |\sum_b k_b \tau_{s_b}^2 e_{s_b}|^2 (\tau_s - \tau_{s'})$, over
    the calls' steps s, each followed by s'; with all branches together that of :class:`foreseer.schedule.Optimal`.
    """

    def __init__(self, kernel: Kernel) -> None:
        branches = kernel.branches
        assert branches is not None
        self._kernel = kernel
        self._mixing = branches.mixing
        self._total = branches.steps
        self._count = len(branches.names)
        # Vectors in a space where the moments are inner products.
        self._features = root_of(branches.pooled)
        guided = kernel.final_weights[:, None] * (branches.guided @ self._features)
        self._samples = np.vstack([np.zeros(guided.shape[1]), np.cumsum(guided, axis=0)])
        self._lacks: dict[tuple[Calls, int], np.ndarray] = {}
        self._reached: dict[Calls, tuple[float, np.ndarray]] = {}

    @property
    def everyone(self) -> int:
        """All branches, as bits."""
        return 2**self._count - 1

    def cost(self, calls: Calls) -> float:
        """Root mean square error of the final sample that ``calls`` leave, in units of the sample."""
        answers, seen = self._reach(calls)
        lacking = self._lacking(calls, self._total)
        return math.sqrt(answers + self._answer(calls[-1][0], self._total, seen) + float(lacking @ lacking))

    def _reach(self, calls: Calls) -> tuple[float, np.ndarray]:
        """What answers have added before the last of ``calls``, and what each branch saw last, shape (B, D)."""
        found = self._reached.get(calls)
        if found is None:
            if len(calls) == 1:
                found = 0.0, np.zeros((self._count, self._samples.shape[1]))
            else:
                step, who = calls[-1]
                answers, seen = self._reach(calls[:-1])
                answers += self._answer(calls[-2][0], step, seen)
                seen = seen.copy()
                seen[[b for b in range(self._count) if who >> b & 1]] = self._kernel.remaining[
                    step
                ] ** 2 * self._lacking(calls[:-1], step)
                found = answers, seen
            self._reached[calls] = found
        return found

    def _answer(self, step: int, until: int, seen: np.ndarray) -> float:
        together = self._mixing @ seen
        left = self._kernel.remaining
        return self._kernel.response**2 * float(left[step] - left[until]) * float(together @ together)

    def _lacking(self, calls: Calls, end: int) -> np.ndarray:
        """What the sample at ``end`` lacks if ``calls`` are all before it."""
        found = self._lacks.get((calls, end))
        if found is None:
            known = [self._total * b + step for step, who in calls for b in range(self._count) if who >> b & 1]
            features = self._features[known]
            system = features @ features.T
            system.flat[:: len(known) + 1] += RIDGE * float(system.trace()) / len(known)
            aim = self._samples[end]
            found = self._lacks[calls, end] = aim - np.linalg.solve(system, features @ aim) @ features
        return found

    def best(self, evaluations: int) -> Calls:
        """The calls of least cost that were found: all branches together, improved by exchange of single calls."""
        if evaluations >= self._count * self._total:
            return tuple((step, self.everyone) for step in range(self._total))
        every = stride(self._total, evaluations // self._count)
        if every > 1:
            thinner = JointSearch(self._kernel.on(thinned(self._kernel.grid, every)))
            found = tuple((every * step, who) for step, who in thinner.best(evaluations))
            return self._improved(found, partial(self._step_moves, within=every))
        wanted = (evaluations - self._count) // self._count
        places = [max(n, round(self._total * (n / (wanted + 1)) ** SPREAD)) for n in range(1, wanted + 1)]
        together = self._improved(tuple((step, self.everyone) for step in (0, *sorted({*places}))), self._step_moves)
        return self._improved(self._trimmed(dict(together), evaluations), self._moves)

    def _trimmed(self, calls: dict[int, int], evaluations: int) -> Calls:
        """``calls`` with as many added or taken away, one at a time where it does best, as the budget asks."""
        while (spent := sum(who.bit_count() for who in calls.values())) != evaluations:
            changed = self._one_more(calls) if spent < evaluations else self._one_less(calls)
            calls = dict(min(changed, key=self.cost))
        return tuple(sorted(calls.items()))

    def _one_more(self, calls: Mapping[int, int]) -> Iterator[Calls]:
        for step in range(1, self._total):
            for b in range(self._count):
                if not calls.get(step, 0) >> b & 1:
                    yield tuple(sorted({**calls, step: calls.get(step, 0) | 1 << b}.items()))

    def _one_less(self, calls: Mapping[int, int]) -> Iterator[Calls]:
        for step in [step for step in calls if step]:
            for b in range(self._count):
                if calls[step] >> b & 1:
                    left = {**calls, step: calls[step] & ~(1 << b)}
                    yield tuple(sorted((step, who) for step, who in left.items() if who))

    def _improved(self, calls: Calls, moves: Callable[[Calls], Iterator[Calls]]) -> Calls:
        """Make the best move until none helps."""
        least = self.cost(calls)
        while self.cost(found := min(moves(calls), key=self.cost, default=calls)) < least * (1 - BETTER):
            calls, least = found, self.cost(found)
        return calls

    def _moves(self, calls: Calls) -> Iterator[Calls]:
        """One call put elsewhere, of any branch; or all calls of a step at another."""
        for fewer in self._one_less(dict(calls)):
            yield from self._one_more(dict(fewer))
        yield from self._step_moves(calls)

    def _step_moves(self, calls: Calls, within: int | None = None) -> Iterator[Calls]:
        taken, within = dict(calls), within or self._total
        for step, who in calls[1:]:
            left = {one: branches for one, branches in taken.items() if one != step}
            for place in range(max(1, step - within), min(self._total, step + within + 1)):
                if place not in taken:
                    yield tuple(sorted({**left, place: who}.items()))
