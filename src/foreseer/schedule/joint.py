"""Search for the computed steps of each branch of guidance, for a budget in forward passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from foreseer.checks import check_count, check_kind
from foreseer.errors import ScheduleError
from foreseer.grid import Grid
from foreseer.kernel import Kernel
from foreseer.schedule.base import Schedule
from foreseer.schedule.search import GAIN, REFINED, root_of, spread, stride, thinned

# A set of calls: ascending steps, each with a bit mask of the branches that compute (branch b: 2**b).
Calls = tuple[tuple[int, int], ...]

RIDGE = 1e-6
SPREAD = 1.5  # the n-th of N initial steps lies at (n / N) ** SPREAD of the run
BETTER = 1e-6  # least relative gain of a move
LARGEST = 12  # calls per branch that are searched in a long run; a larger budget is spread like it
BATCH = 512  # linear systems solved together


@dataclass(frozen=True, eq=False)
class Joint(Schedule):
    """Separate computed steps per branch: the calls with the least expected error of the final sample.

    Args:
        kernel: second moments from calibration, with branches.
        forward_passes: calls of the network in a run, summed over branches.

    Raises:
        ScheduleError: the kernel has no branches, or the budget is less than one call per branch.
    """

    kernel: Kernel = field(repr=False)
    forward_passes: int
    _cache: dict[bytes, Calls] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_kind("kernel", self.kernel, Kernel, ScheduleError)
        check_count("forward_passes", self.forward_passes, ScheduleError, least=1)
        branches = self.kernel.branches
        if branches is None:
            raise ScheduleError("This kernel has no branches of guidance: give nfe instead of forward_passes.")
        if self.forward_passes < len(branches.names):
            raise ScheduleError(
                f"{self.forward_passes} forward passes are too few; expected at least one for each of {branches.names}."
            )

    @property
    def joins_visits(self) -> bool:
        """Whether the kernel was recorded with a scheduler that visits levels more than once."""
        return self.kernel.grid.repeats

    def on(self, grid: Grid, first_step: int = 0, spent: int = 0) -> tuple[int, ...]:
        """Return the steps at which any branch computes."""
        return tuple(step for step, _ in self._calls(grid.tail(first_step)))

    def branch_steps(self, grid: Grid, first_step: int = 0) -> Mapping[str, tuple[int, ...]]:
        """Return the computed steps of each branch that skips some of the steps of :meth:`on`."""
        assert self.kernel.branches is not None
        calls = self._calls(grid.tail(first_step))
        steps = {
            name: tuple(step for step, mask in calls if mask >> b & 1)
            for b, name in enumerate(self.kernel.branches.names)
        }
        return {name: computed for name, computed in steps.items() if len(computed) < len(calls)}

    def _calls(self, grid: Grid) -> Calls:
        if grid.key not in self._cache:
            self._cache[grid.key] = JointSearch(self.kernel.on(grid)).best(self.forward_passes)
        return self._cache[grid.key]

    def _computed_steps(self, steps: int) -> Iterable[int]:
        if steps != len(self.kernel.grid):
            raise ScheduleError(
                f"The kernel has {len(self.kernel.grid)} steps, the run {steps}; call on(grid) with the run's grid."
            )
        return self.on(self.kernel.grid)


class JointSearch:
    r"""Expected errors of sets of calls, and the search for the least.

    The sample at step e depends on $v_e = \sum_{i<e} f_i g_i$ (f: effect of each step on the final sample, g: guided
    outputs). Its error is the part that the features computed before e do not span: $e_e = v_e - P v_e$; rows with
    error feedback come close to it. Branch b responds to the error at its last computed step $s_b$, and guidance
    combines the responses: until the next call they add $a \sum_b k_b \tau_{s_b}^2 e_{s_b}$ (a: the kernel's
    sensitivity, $\tau$: remaining share of the run). Branches called at the same step respond alike and mostly cancel;
    branches called at different steps do not. The cost is
    $|e_T|^2 + \sum a^2 |\sum_b k_b \tau_{s_b}^2 e_{s_b}|^2 (\tau_s - \tau_{s'})$ over consecutive called steps s, s';
    with all branches at the same steps it is the cost of :class:`foreseer.schedule.Optimal`.
    """

    def __init__(self, kernel: Kernel) -> None:
        branches = kernel.branches
        assert branches is not None
        self._kernel = kernel
        self._mixing = branches.mixing
        self._total = branches.steps
        self._count = len(branches.names)
        # Row vectors whose inner products are the moments.
        self._features = root_of(branches.pooled)
        guided = kernel.final_weights[:, None] * (branches.guided @ self._features)
        self._samples = np.vstack([np.zeros(guided.shape[1]), np.cumsum(guided, axis=0)])
        self._moments = self._features @ self._features.T
        self._targets = self._features @ self._samples.T
        self._errors: dict[tuple[Calls, int], np.ndarray] = {}
        self._reached: dict[Calls, tuple[float, np.ndarray]] = {}

    @property
    def all_branches(self) -> int:
        """Bit mask of all branches."""
        return 2**self._count - 1

    def cost(self, calls: Calls) -> float:
        """Return the expected root mean square error of the final sample, in units of the sample."""
        propagated, seen = self._reach(calls)
        error = self._error(calls, self._total)
        return math.sqrt(propagated + self._propagated(calls[-1][0], self._total, seen) + float(error @ error))

    def _reach(self, calls: Calls) -> tuple[float, np.ndarray]:
        """Return the squares propagated before the last call, and each branch's last error, shape (B, D)."""
        reached = self._reached.get(calls)
        if reached is None:
            if len(calls) == 1:
                reached = 0.0, np.zeros((self._count, self._samples.shape[1]))
            else:
                step, mask = calls[-1]
                propagated, seen = self._reach(calls[:-1])
                propagated += self._propagated(calls[-2][0], step, seen)
                seen = seen.copy()
                error = self._kernel.remaining[step] ** 2 * self._error(calls[:-1], step)
                seen[[b for b in range(self._count) if mask >> b & 1]] = error
                reached = propagated, seen
            self._reached[calls] = reached
        return reached

    def _propagated(self, step: int, until: int, seen: np.ndarray) -> float:
        combined = self._mixing @ seen
        remaining = self._kernel.remaining
        return self._kernel.sensitivity**2 * float(remaining[step] - remaining[until]) * float(combined @ combined)

    def _error(self, calls: Calls, end: int) -> np.ndarray:
        """Return the part of the sample at ``end`` that the features of ``calls`` do not span."""
        if (calls, end) not in self._errors:
            self._solve([(calls, end)])
        return self._errors[calls, end]

    def _least(self, sets: Iterable[Calls], default: Calls | None = None) -> Calls:
        """Return the set of least cost; the linear systems of all sets are solved together, grouped by size."""
        sets = list(sets)
        ends = [(*(step for step, _ in calls[1:]), self._total) for calls in sets]
        pairs = {(c[:n], end) for c, steps in zip(sets, ends, strict=True) for n, end in enumerate(steps, start=1)}
        groups: dict[int, list[tuple[Calls, int]]] = {}
        for calls, end in sorted(pairs - self._errors.keys()):
            groups.setdefault(sum(mask.bit_count() for _, mask in calls), []).append((calls, end))
        for group in groups.values():
            for first in range(0, len(group), BATCH):
                self._solve(group[first : first + BATCH])
        return min(sets, key=self.cost) if default is None else min(sets, key=self.cost, default=default)

    def _solve(self, pairs: list[tuple[Calls, int]]) -> None:
        """Fill in the errors of sets of equally many calls."""
        bits = range(self._count)
        indices = [
            [self._total * b + step for step, mask in calls for b in bits if mask >> b & 1] for calls, _ in pairs
        ]
        computed, ends = np.array(indices), np.array([end for _, end in pairs])
        systems = self._moments[computed[:, :, None], computed[:, None, :]]
        size = computed.shape[1]
        ridge = RIDGE * np.einsum("mkk->m", systems) / size
        systems += ridge[:, None, None] * np.eye(size)
        weights = np.linalg.solve(systems, self._targets[computed, ends[:, None]][:, :, None])
        spanned = (self._features[computed].transpose(0, 2, 1) @ weights)[:, :, 0]
        self._errors.update(zip(pairs, list(self._samples[ends] - spanned), strict=True))

    def best(self, forward_passes: int) -> Calls:
        """Return the best calls found: first with all branches at the same steps, then moving single calls."""
        if forward_passes >= self._count * self._total:
            return tuple((step, self.all_branches) for step in range(self._total))
        every = stride(self._total)
        if every > 1:
            coarse = JointSearch(self._kernel.on(thinned(self._kernel.grid, every)))
            found = coarse.best(min(forward_passes, LARGEST * self._count))
            calls = self._spread(tuple((every * step, mask) for step, mask in found), forward_passes)
            return calls if len(calls) > REFINED else self._halved(calls, every)
        count = (forward_passes - self._count) // self._count
        initial = [max(n, round(self._total * (n / (count + 1)) ** SPREAD)) for n in range(1, count + 1)]
        calls = tuple((step, self.all_branches) for step in (0, *sorted({*initial})))
        calls = self._improved(calls, self._step_moves)
        return self._improved(self._trimmed(dict(calls), forward_passes), self._moves)

    def _spread(self, calls: Calls, forward_passes: int) -> Calls:
        """Return ``forward_passes`` calls that are, in each branch, as dense at each place as ``calls``."""
        own = [[step for step, mask in calls if mask >> b & 1] for b in range(self._count)]
        ends = np.cumsum([len(steps) for steps in own])
        counts = np.diff(np.rint(ends * forward_passes / ends[-1]), prepend=0.0).astype(int)
        masks: dict[int, int] = {}
        for b, (steps, count) in enumerate(zip(own, counts.tolist(), strict=True)):
            for step in spread(steps, min(count, self._total), self._total):
                masks[step] = masks.get(step, 0) | 1 << b
        return self._trimmed(masks, forward_passes)

    def _halved(self, calls: Calls, every: int) -> Calls:
        """Move the calls of a step by half of ``every``, then a quarter, and so on, while it helps."""
        while (every := every // 2) > 0:
            before = math.inf
            while self.cost(calls) < before * (1 - GAIN):
                before = self.cost(calls)
                for step, mask in reversed(calls[1:]):
                    others = {other: branches for other, branches in calls if other != step}
                    free = [step, *({step - every, step + every} & {*range(1, self._total)} - {*others})]
                    calls = self._least(tuple(sorted({**others, target: mask}.items())) for target in free)
        return calls

    def _trimmed(self, calls: dict[int, int], forward_passes: int) -> Calls:
        """Add or remove the best single calls until the budget is met."""
        while (spent := sum(mask.bit_count() for mask in calls.values())) != forward_passes:
            changed = self._one_more(calls) if spent < forward_passes else self._one_less(calls)
            calls = dict(self._least(changed))
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
                    fewer = {**calls, step: calls[step] & ~(1 << b)}
                    yield tuple(sorted((step, mask) for step, mask in fewer.items() if mask))

    def _improved(self, calls: Calls, moves: Callable[[Calls], Iterator[Calls]]) -> Calls:
        """Make the best move until no move helps."""
        least = self.cost(calls)
        while self.cost(moved := self._least(moves(calls), calls)) < least * (1 - BETTER):
            calls, least = moved, self.cost(moved)
        return calls

    def _moves(self, calls: Calls) -> Iterator[Calls]:
        """Yield sets with one call moved to another step or branch, or all calls of a step moved."""
        for fewer in self._one_less(dict(calls)):
            yield from self._one_more(dict(fewer))
        yield from self._step_moves(calls)

    def _step_moves(self, calls: Calls) -> Iterator[Calls]:
        masks = dict(calls)
        for step, mask in calls[1:]:
            others = {other: branches for other, branches in masks.items() if other != step}
            for target in range(1, self._total):
                if target not in masks:
                    yield tuple(sorted({**others, target: mask}.items()))
