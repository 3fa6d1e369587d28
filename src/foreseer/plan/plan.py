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

from foreseer.checks import frozen
from foreseer.errors import ForeseerError, PlanError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
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
        branch_rows: for branches of guidance that have rows of their own, by name; of the same form. All other branches
            go by ``rows``.

    Raises:
        PlanError: a shape, a step, a site or a weight is not as said above.
    """

    grid: Grid
    computed_steps: tuple[int, ...]
    rows: Float64[np.ndarray, "T T"] = field(repr=False)
    site: str = "output"
    provenance: Mapping[str, str] = field(default_factory=dict)
    branch_rows: Mapping[str, Float64[np.ndarray, "T T"]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        steps = len(self.grid)
        try:
            computed = check_computed_steps(self.computed_steps, steps)
        except ForeseerError as error:
            raise PlanError(str(error)) from error
        object.__setattr__(self, "site", str(read_site(self.site)))
        if not isinstance(self.branch_rows, Mapping) or not all(isinstance(name, str) for name in self.branch_rows):
            raise PlanError("The branches' own rows must be given by the branch's name.")
        of_branches = {name: _checked_rows(rows, computed, steps) for name, rows in self.branch_rows.items()}
        object.__setattr__(self, "computed_steps", computed)
        object.__setattr__(self, "rows", _checked_rows(self.rows, computed, steps))
        object.__setattr__(self, "branch_rows", MappingProxyType(of_branches))
        object.__setattr__(self, "provenance", MappingProxyType(_check_provenance(self.provenance)))

    @classmethod
    def compile(
        cls,
        grid: Grid,
        computed_steps: tuple[int, ...],
        forecaster: Forecaster,
        site: str | Site = "output",
        provenance: Mapping[str, str] | None = None,
    ) -> Plan:
        """Ask ``forecaster`` for the row of every skipped step of ``grid``, and for rows of branches' own."""
        computed = check_computed_steps(computed_steps, len(grid))
        rows = forecaster.rows(computed, grid)
        of_branches = forecaster.branch_rows(computed, grid)
        return cls(grid, computed, rows, str(site), provenance or {"forecaster": repr(forecaster)}, of_branches)

    def of_branch(self, name: str) -> Plan:
        """What the branch ``name`` follows: a plan with the branch's own rows, or this one."""
        return self._of_branches.get(name, self)

    @cached_property
    def _of_branches(self) -> Mapping[str, Plan]:
        return {
            name: Plan(self.grid, self.computed_steps, rows, self.site, {**self.provenance, "branch": name})
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
        return MappingProxyType(uses)

    @cached_property
    def freed_after(self) -> Mapping[int, tuple[int, ...]]:
        """Per step that is the last to need some features: the computed steps that they are of."""
        freed: dict[int, tuple[int, ...]] = {}
        for kept, last in self.last_uses.items():
            freed[last] = (*freed.get(last, ()), kept)
        return MappingProxyType(freed)

    @cached_property
    def sparse_rows(self) -> Mapping[int, tuple[list[int], list[float]]]:
        """Per forecast step the computed steps that carry weight, and their weights."""
        rows = {step: np.flatnonzero(self.rows[step]).tolist() for step in self.forecast_steps}
        return MappingProxyType({step: (used, self.rows[step, used].tolist()) for step, used in rows.items()})

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
        words, of_branches = dict(self.provenance), dict(self.branch_rows)
        return Plan, (self.grid, self.computed_steps, self.rows, self.site, words, of_branches)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Plan)
            and (self.grid, self.computed_steps, self.site) == (other.grid, other.computed_steps, other.site)
            and np.array_equal(self.rows, other.rows)
            and self.branch_rows.keys() == other.branch_rows.keys()
            and all(np.array_equal(rows, other.branch_rows[name]) for name, rows in self.branch_rows.items())
        )

    def __hash__(self) -> int:
        return hash((self.grid, self.computed_steps, self.site, self.rows.tobytes()))


def _checked_rows(given: Any, computed: tuple[int, ...], steps: int) -> np.ndarray:
    """``given`` as a matrix that nobody can write to."""
    try:
        rows = frozen(given)
    except (TypeError, ValueError) as error:
        raise PlanError(f"The rows must hold numbers, in rows of one length: {error}.") from error
    if rows.shape != (steps, steps):
        raise PlanError(f"The rows have shape {rows.shape}; a grid of {steps} steps needs ({steps}, {steps}).")
    if not np.all(np.isfinite(rows)):
        raise PlanError("A weight is not finite.")
    _check_rows(rows, computed)
    return rows


def _check_rows(rows: np.ndarray, computed: tuple[int, ...]) -> None:
    steps = rows.shape[0]
    computes = np.zeros(steps, dtype=bool)
    computes[list(computed)] = True
    if not np.array_equal(np.diag(rows), computes):
        raise PlanError("Each computed step's row must be the unit row, and no skipped step may weigh itself.")
    allowed = np.tri(steps, dtype=bool)
    allowed &= computes
    allowed[computes] = False
    np.fill_diagonal(allowed, True)
    outside = rows != 0
    outside[allowed] = False
    if np.any(outside):
        step, column = (int(index) for index in np.unravel_index(np.argmax(outside), outside.shape))
        raise PlanError(f"Row {step} weighs step {column}; only computed steps before it may carry a weight.")


def _check_provenance(provenance: Mapping[str, str]) -> dict[str, str]:
    words = provenance.items() if isinstance(provenance, Mapping) else [(provenance, None)]
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in words):
        raise PlanError("Provenance holds words only: every key and value must be a string.")
    return dict(provenance)
