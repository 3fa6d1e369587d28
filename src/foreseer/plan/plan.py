"""The plan: a grid, its computed steps and one row of weights a step, frozen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from foreseer.errors import ForeseerError, PlanError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
from foreseer.plan.invariants import are_equal, check_cross_rows, check_provenance, checked_rows
from foreseer.schedule.base import check_computed_steps
from foreseer.site import Site, read_site

if TYPE_CHECKING:
    from foreseer.plan.differences import DifferenceExpansion
    from foreseer.plan.explain import PlanExplanation


@dataclass(frozen=True, eq=False)
class Plan:
    r"""What to compute and how to forecast the rest: $\hat F_i = \sum_j w_{ij} F_j$ over computed j < i.

    Args:
        grid: the noise levels of the run, T of them.
        computed_steps: the steps at which the network runs, ascending from 0.
        rows: shape (T, T), float64. Row i of a skipped step holds its weights, which lie in columns of computed steps
            before i; row i of a computed step is the unit row.
        site: where in the network the feature is taken, in words (`foreseer.site`); a site object is taken too.
        provenance: words about where the plan comes from (schedule, forecaster, model), kept with the file.
        branch_rows: for branches of guidance that have rows of their own, by name in the order of their calls. Of the
            same form, but a branch may compute at fewer steps, 0 among them: where its row is the unit row. All other
            branches go by ``rows``.
        cross_rows: by (branch, other), both with rows of their own, the other called before: weights of the other's
            features in the branch's forecasts; its computed steps up to the step itself may carry some.
        whole: for what a branch follows (:meth:`of_branch`): the plan that it is a part of.

    Raises:
        PlanError: a shape, a step, a site or a weight is not as said above.
    """

    grid: Grid
    computed_steps: tuple[int, ...]
    rows: Float64[np.ndarray, "T T"] = field(repr=False)
    site: str = "output"
    provenance: Mapping[str, str] = field(default_factory=dict)
    branch_rows: Mapping[str, Float64[np.ndarray, "T T"]] = field(default_factory=dict, repr=False)
    cross_rows: Mapping[tuple[str, str], Float64[np.ndarray, "T T"]] = field(default_factory=dict, repr=False)
    whole: Plan | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        steps = len(self.grid)
        try:
            computed = check_computed_steps(self.computed_steps, steps)
        except ForeseerError as error:
            raise PlanError(str(error)) from error
        object.__setattr__(self, "site", str(read_site(self.site)))
        if not isinstance(self.branch_rows, Mapping) or not all(isinstance(name, str) for name in self.branch_rows):
            raise PlanError("The branches' own rows must be given by the branch's name.")
        given = self.branch_rows.items()
        of_branches = {name: checked_rows(rows, computed, steps, fewer=True) for name, rows in given}
        cross = check_cross_rows(self.cross_rows, of_branches)
        object.__setattr__(self, "computed_steps", computed)
        object.__setattr__(self, "rows", checked_rows(self.rows, computed, steps))
        object.__setattr__(self, "branch_rows", MappingProxyType(of_branches))
        object.__setattr__(self, "cross_rows", MappingProxyType(cross))
        object.__setattr__(self, "provenance", MappingProxyType(check_provenance(self.provenance)))

    @classmethod
    def compile(
        cls,
        grid: Grid,
        computed_steps: tuple[int, ...],
        forecaster: Forecaster,
        site: str | Site = "output",
        provenance: Mapping[str, str] | None = None,
        *,
        branch_steps: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Plan:
        """Ask ``forecaster`` for the row of every skipped step of ``grid``, and for rows of branches' own.

        Args:
            grid: the noise levels of the run.
            computed_steps: the steps at which the network runs.
            forecaster: gives the rows.
            site: where the feature is taken.
            provenance: words kept with the plan; by default the forecaster's.
            branch_steps: the steps at which branches compute that do not at all of ``computed_steps``.
        """
        computed = check_computed_steps(computed_steps, len(grid))
        rows = forecaster.rows(computed, grid)
        words = provenance or {"forecaster": repr(forecaster)}
        apart = computed, grid, branch_steps or {}
        own, cross = forecaster.branch_rows(*apart), forecaster.cross_rows(*apart)
        return cls(grid, computed, rows, str(site), words, own, cross)

    def of_branch(self, name: str) -> Plan:
        """What the branch ``name`` follows: a plan with the branch's own steps and rows, or this one."""
        return self._of_branches.get(name, self)

    @cached_property
    def _of_branches(self) -> Mapping[str, Plan]:
        return {
            name: Plan(
                self.grid,
                tuple(np.flatnonzero(np.diag(rows)).tolist()),
                rows,
                self.site,
                {**self.provenance, "branch": name},
                whole=self,
            )
            for name, rows in self.branch_rows.items()
        }

    @property
    def nfe(self) -> int:
        """Network evaluations of a run without guidance: the number of computed steps."""
        return len(self.computed_steps)

    @cached_property
    def forecast_steps(self) -> tuple[int, ...]:
        """The steps that are forecast."""
        return tuple(sorted(set(range(len(self.grid))) - set(self.computed_steps)))

    @cached_property
    def last_uses(self) -> Mapping[int, int]:
        """For each computed step whose feature some later row needs: the last step that needs it."""
        uses: dict[int, int] = {}
        needed = np.any([self.rows, *self.branch_rows.values()], axis=0)
        for step in self.forecast_steps:
            uses.update(dict.fromkeys(np.flatnonzero(needed[step]).tolist(), step))
        for kept, (step, _) in self._lent.items():
            uses[kept] = max(step, uses.get(kept, 0))
        return MappingProxyType(uses)

    @cached_property
    def _lent(self) -> Mapping[int, tuple[int, str]]:
        """For each computed step whose feature another branch needs: the last step that does, and the last branch."""
        lent: dict[int, tuple[int, str]] = {}
        for (branch, other), rows in self.whole.cross_rows.items() if self.whole is not None else ():
            for kept in np.flatnonzero(rows.any(axis=0)).tolist() if other == self.provenance["branch"] else ():
                last = int(np.flatnonzero(rows[:, kept])[-1])
                if last >= lent.get(kept, (0, ""))[0]:
                    lent[kept] = last, branch
        return lent

    @cached_property
    def freed_after(self) -> Mapping[int, tuple[int, ...]]:
        """Per step after which features are needed no more: the computed steps that they are of.

        Where another branch needs one last, which is called after this one, that is the next step; it gives them back
        earlier, by :attr:`given_back`.
        """
        freed: dict[int, tuple[int, ...]] = {}
        for kept, last in self.last_uses.items():
            after = last + 1 if self._lent.get(kept, (-1, ""))[0] == last else last
            freed[after] = (*freed.get(after, ()), kept)
        return MappingProxyType(freed)

    @cached_property
    def given_back(self) -> Mapping[int, tuple[tuple[str, int], ...]]:
        """Per step the features of other branches that this one is the last to need: branch and computed step."""
        back: dict[int, tuple[tuple[str, int], ...]] = {}
        others = self.whole._of_branches if self.whole is not None else {}
        for other, plan in others.items():
            for kept, (last, branch) in plan._lent.items():
                if branch == self.provenance.get("branch") and plan.last_uses[kept] == last:
                    back[last] = (*back.get(last, ()), (other, kept))
        return MappingProxyType(back)

    @cached_property
    def sparse_cross_rows(self) -> Mapping[int, tuple[tuple[str, list[int], list[float]], ...]]:
        """Per forecast step the other branches whose features carry weight, their computed steps, and the weights."""
        found: dict[int, tuple[tuple[str, list[int], list[float]], ...]] = {}
        for (branch, other), rows in self.whole.cross_rows.items() if self.whole is not None else ():
            for step in np.flatnonzero(rows.any(axis=1)).tolist() if branch == self.provenance["branch"] else ():
                used = np.flatnonzero(rows[step]).tolist()
                found[step] = (*found.get(step, ()), (other, used, rows[step, used].tolist()))
        return MappingProxyType(found)

    @cached_property
    def sparse_rows(self) -> Mapping[int, tuple[list[int], list[float]]]:
        """Per forecast step the computed steps that carry weight, and their weights."""
        rows = {step: np.flatnonzero(self.rows[step]).tolist() for step in self.forecast_steps}
        return MappingProxyType({step: (used, self.rows[step, used].tolist()) for step, used in rows.items()})

    def weights_at(self, step: int) -> int:
        """How many features are weighed in the forecast of ``step``; 0 where it computes."""
        own, _ = self.sparse_rows.get(step, ([], []))
        return len(own) + sum(len(used) for _, used, _ in self.sparse_cross_rows.get(step, ()))

    def live_steps(self, step: int) -> tuple[int, ...]:
        """The computed steps whose features are held while ``step`` runs, its own included if a later row needs it."""
        return tuple(kept for kept, last in self.last_uses.items() if kept <= step <= last)

    @cached_property
    def most_live(self) -> int:
        """The largest number of features held at once."""
        return max((len(self.live_steps(step)) for step in range(len(self.grid))), default=0)

    def explain(
        self, feature_shape: tuple[int, ...] | Sequence[tuple[int, ...]] | None = None, dtype: str = "float32"
    ) -> PlanExplanation:
        """Per skipped step the row, its sum, L1 gain and span; live features and their memory. See `plan.explain`."""
        from foreseer.plan.explain import explain

        return explain(self, feature_shape, dtype)

    def to_differences(self) -> DifferenceExpansion:
        """The same plan as weights of backward differences (L2P's supplement, section E)."""
        from foreseer.plan.differences import DifferenceExpansion

        return DifferenceExpansion.of(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            PlanFileError: the file cannot be written.
        """
        from foreseer.plan.file import save_plan

        save_plan(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a file that :meth:`save` wrote.

        Raises:
            PlanFileError: the file is missing, damaged, no plan, or of a later format version.
        """
        from foreseer.plan.file import load_plan

        return load_plan(path)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.whole is not None:
            return Plan.of_branch, (self.whole, self.provenance["branch"])
        words, own, cross = dict(self.provenance), dict(self.branch_rows), dict(self.cross_rows)
        return Plan, (self.grid, self.computed_steps, self.rows, self.site, words, own, cross)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Plan)
            and (self.grid, self.computed_steps, self.site) == (other.grid, other.computed_steps, other.site)
            and np.array_equal(self.rows, other.rows)
            and are_equal(self.branch_rows, other.branch_rows)
            and are_equal(self.cross_rows, other.cross_rows)
            and self.sparse_cross_rows == other.sparse_cross_rows
        )

    def __hash__(self) -> int:
        return hash((self.grid, self.computed_steps, self.site, self.rows.tobytes()))
