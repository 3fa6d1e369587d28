"""Rows of one branch, prepared for the runtime: weights of each step, and when features are freed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from foreseer.kernel.parts import tensor_names
from foreseer.plan.mixing import START

if TYPE_CHECKING:
    from foreseer.grid import Grid
    from foreseer.plan.mixing import ChannelMixing
    from foreseer.plan.plan import Plan

CrossTerm = tuple[str, list[int], list[float]]


@dataclass(frozen=True, eq=False)
class CompiledRows:
    """Rows that one branch, or one part of its feature, follows; made by :meth:`foreseer.Plan.of_branch`.

    Attributes:
        plan: the plan that the rows belong to.
        name: the branch or part, if the plan has separate rows for it; empty for the rows that all others share.
        computed_steps: the steps at which the branch computes, ascending from 0.
        rows: shape (T, T), float64, as in the plan.
    """

    plan: Plan = field(repr=False)
    name: str
    computed_steps: tuple[int, ...]
    rows: Float64[np.ndarray, "T T"] = field(repr=False)

    @property
    def grid(self) -> Grid:
        """The plan's grid."""
        return self.plan.grid

    @property
    def site(self) -> str:
        """Where the plan takes features."""
        return self.plan.site

    @property
    def nfe(self) -> int:
        """The number of computed steps."""
        return len(self.computed_steps)

    @cached_property
    def forecast_steps(self) -> tuple[int, ...]:
        """The steps that are forecast."""
        return tuple(sorted(set(range(len(self.grid))) - set(self.computed_steps)))

    @cached_property
    def sparse_rows(self) -> Mapping[int, tuple[list[int], list[float]]]:
        """For each forecast step: the computed steps that carry weight, and their weights."""
        used = {step: np.flatnonzero(self.rows[step]).tolist() for step in self.forecast_steps}
        return MappingProxyType({step: (steps, self.rows[step, steps].tolist()) for step, steps in used.items()})

    @cached_property
    def start_weights(self) -> Mapping[int, float]:
        """For each forecast step that weighs the run's first sample: its weight.

        The weights belong to the rows that they were fitted beside: those of branches, where the plan has such rows.
        """
        row, own = self.plan.start_row, self.plan.branch_rows
        if row is None or self.name in self.plan.part_rows or (own and self.name not in own):
            return MappingProxyType({})
        return MappingProxyType({step: float(row[step]) for step in self.forecast_steps if row[step]})

    @cached_property
    def mixing(self) -> ChannelMixing | None:
        """Channel-mixing corrections of this branch's forecasts; ``None`` without any."""
        return self.plan.mixing.of_branch(self.name) if self.plan.mixing is not None else None

    @cached_property
    def sparse_cross_rows(self) -> Mapping[int, tuple[CrossTerm, ...]]:
        """For each forecast step: weights of other branches' features, as (branch, computed steps, weights)."""
        terms: dict[int, tuple[CrossTerm, ...]] = {}
        for (branch, other), rows in self.plan.cross_rows.items() if self.name else ():
            for step in np.flatnonzero(rows.any(axis=1)).tolist() if branch == self.name else ():
                used = np.flatnonzero(rows[step]).tolist()
                terms[step] = (*terms.get(step, ()), (other, used, rows[step, used].tolist()))
        return MappingProxyType(terms)

    @cached_property
    def last_uses(self) -> Mapping[int, int]:
        """For each computed step whose feature a later row needs: the last step that needs it."""
        uses: dict[int, int] = {}
        # Parts of the feature are stored together, so a feature is held for as long as any of them needs it.
        needed = np.any([self.rows, *(part.rows for part in self._parts.values())], axis=0)
        for step in self.forecast_steps:
            uses.update(dict.fromkeys(np.flatnonzero(needed[step]).tolist(), step))
        for source, (step, _) in self._lent.items():
            uses[source] = max(step, uses.get(source, 0))
        for segment in self.mixing.segments if self.mixing is not None else ():
            uses.update({source: max(segment.steps[-1], uses.get(source, 0)) for source in segment.sources})
        if self.start_weights:
            uses[START] = max(uses.get(START, 0), *self.start_weights)
        return MappingProxyType(uses)

    @cached_property
    def _lent(self) -> Mapping[int, tuple[int, str]]:
        """For each computed step whose feature another branch needs: the last step and branch to use it."""
        lent: dict[int, tuple[int, str]] = {}
        for (branch, other), rows in self.plan.cross_rows.items() if self.name else ():
            for source in np.flatnonzero(rows.any(axis=0)).tolist() if other == self.name else ():
                last = int(np.flatnonzero(rows[:, source])[-1])
                if last >= lent.get(source, (0, ""))[0]:
                    lent[source] = last, branch
        return lent

    @cached_property
    def freed_after(self) -> Mapping[int, tuple[int, ...]]:
        """For each step: the computed steps whose features no later step needs.

        A feature that another branch, called later in the step, uses last is freed one step later here; that branch
        releases it earlier (:attr:`released`).
        """
        freed: dict[int, tuple[int, ...]] = {}
        for source, last in self.last_uses.items():
            after = last + 1 if self._lent.get(source, (-1, ""))[0] == last else last
            freed[after] = (*freed.get(after, ()), source)
        return MappingProxyType(freed)

    @cached_property
    def released(self) -> Mapping[int, tuple[tuple[str, int], ...]]:
        """For each step: other branches' features last used by this branch, as (branch, computed step)."""
        released: dict[int, tuple[tuple[str, int], ...]] = {}
        for other in self.plan.branch_rows if self.name else ():
            rows = self.plan.of_branch(other)
            for source, (last, branch) in rows._lent.items():
                if branch == self.name and rows.last_uses[source] == last:
                    released[last] = (*released.get(last, ()), (other, source))
        return MappingProxyType(released)

    @cached_property
    def _parts(self) -> Mapping[str, CompiledRows]:
        """Rows of the parts of this branch's feature that have their own, by name."""
        parts = [*self.plan.part_rows] if self._has_parts else []
        if not self.name:  # where format versions 1 to 3 have the rows of modules
            parts += self.plan.branch_rows
        return {name: self.plan.of_branch(name) for name in parts}

    @property
    def _has_parts(self) -> bool:
        """Whether the plan's rows of parts, which are for all its computed steps, serve this branch."""
        return self.computed_steps == self.plan.computed_steps and self.name not in self.plan.part_rows

    def of_part(self, name: str) -> CompiledRows:
        """Return the rows of the part ``name`` of the feature if the plan has them, else this branch's rows."""
        return self._parts.get(name, self)

    def names_of(self, tensors: int) -> tuple[str, ...]:
        """Names of a feature's tensors if the further ones have separate rows; empty if they have not."""
        if tensors < 2 or not self._has_parts:
            return ()
        names = tensor_names(tensors)
        return names if {*names[1:]} == self.plan.part_rows.keys() else ()

    def weights_at(self, step: int) -> int:
        """Number of features weighed in the forecast of ``step``; 0 where it computes."""
        own, _ = self.sparse_rows.get(step, ([], []))
        return (
            len(own)
            + (step in self.start_weights)
            + sum(len(used) for _, used, _ in self.sparse_cross_rows.get(step, ()))
        )

    def live_steps(self, step: int) -> tuple[int, ...]:
        """Return the computed steps whose features are held while ``step`` runs.

        ``step`` itself is included if a later row needs its feature; ``START`` is the run's first sample.
        """
        return tuple(source for source, last in self.last_uses.items() if source <= step <= last)

    @cached_property
    def most_live(self) -> int:
        """The largest number of features held at once."""
        return max((len(self.live_steps(step)) for step in range(len(self.grid))), default=0)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.plan).of_branch, (self.plan, self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompiledRows) and (self.name, self.plan) == (other.name, other.plan)

    def __hash__(self) -> int:
        return hash((self.name, self.plan))
