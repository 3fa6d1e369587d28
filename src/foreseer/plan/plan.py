"""The plan: a grid, its computed steps and one row of weights per step, frozen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.checks import check_provenance
from foreseer.errors import ForeseerError, PlanError
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
from foreseer.plan.compiled import CompiledRows
from foreseer.plan.differences import DifferenceExpansion
from foreseer.plan.explain import PlanExplanation, explain
from foreseer.plan.file import load_plan, save_plan
from foreseer.plan.invariants import are_equal, check_cross_rows, check_part_rows, checked_rows, checked_start
from foreseer.plan.mixing import ChannelMixing, check_mixing
from foreseer.plan.tail import tail_of
from foreseer.schedule.base import check_computed_steps
from foreseer.site import Site, read_site

SCHEDULER = ("scheduler", "scheduler_config")  # entries of a provenance: class, and hash of the configuration
ORIGIN = ("model", "denoiser", "guidance", *SCHEDULER)  # entries that a plan takes from its kernel's provenance


@dataclass(frozen=True, eq=False)
class Plan:
    r"""What to compute and how to forecast the rest: $\hat F_i = \sum_j w_{ij} F_j$ over computed j < i.

    Args:
        grid: the noise levels of the run, T of them.
        computed_steps: the steps at which the network runs, ascending from 0.
        rows: shape (T, T), float64. Row i of a skipped step holds its weights, which lie in columns of computed steps
            before i; row i of a computed step is the unit row.
        site: where in the network the feature is taken, as text (`foreseer.site`) or as a site object.
        provenance: text about the plan's origin (schedule, forecaster, model), kept with the file.
        branch_rows: rows of guidance branches that have their own, by name in call order. Same form, but a branch may
            compute at fewer steps (step 0 among them), where its row is the unit row. Other branches follow ``rows``.
        cross_rows: weights of another branch's features in a branch's forecasts, by (branch, other), over the other's
            computed steps up to the step itself. Both are in ``branch_rows``, and ``other`` is called first.
        mixing: corrections of the forecasts that mix channels, fitted on what the rows leave; ``None`` for rows alone.
        part_rows: rows of parts of the feature that have their own, by name: modules of the network, or the further
            tensors of a feature that has several ("tensor 2", ...). Same form as ``rows``. A branch that computes at
            fewer steps than the plan, or returns another number of tensors, forecasts all parts with its own rows.
        start_row: shape (T,), weights of the run's first sample, as the network receives it at step 0, in the forecasts
            of all branches; 0 at computed steps. Output site only, and only the first of several tensors. ``None`` for
            none.

    Raises:
        PlanError: a shape, a step, a site or a weight violates the above.
    """

    grid: Grid
    computed_steps: tuple[int, ...]
    rows: Float64[np.ndarray, "T T"] = field(repr=False)
    site: str = "output"
    provenance: Mapping[str, str] = field(default_factory=dict)
    branch_rows: Mapping[str, Float64[np.ndarray, "T T"]] = field(default_factory=dict, repr=False)
    cross_rows: Mapping[tuple[str, str], Float64[np.ndarray, "T T"]] = field(default_factory=dict, repr=False)
    mixing: ChannelMixing | None = field(default=None, repr=False)
    part_rows: Mapping[str, Float64[np.ndarray, "T T"]] = field(default_factory=dict, repr=False)
    start_row: Float64[np.ndarray, " T"] | None = field(default=None, repr=False)

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
        of_parts = check_part_rows(self.part_rows, computed, steps, of_branches)
        cross = check_cross_rows(self.cross_rows, of_branches)
        object.__setattr__(self, "computed_steps", computed)
        object.__setattr__(self, "rows", checked_rows(self.rows, computed, steps))
        object.__setattr__(self, "branch_rows", MappingProxyType(of_branches))
        object.__setattr__(self, "cross_rows", MappingProxyType(cross))
        object.__setattr__(self, "part_rows", MappingProxyType(of_parts))
        object.__setattr__(self, "start_row", checked_start(self.start_row, computed, steps, self.site))
        object.__setattr__(self, "provenance", MappingProxyType(check_provenance(self.provenance, PlanError)))
        own = {name: tuple(np.flatnonzero(np.diag(matrix)).tolist()) for name, matrix in of_branches.items()}
        check_mixing(self.mixing, {"": computed, **own}, steps, self.site)

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
        """Build a plan from the rows that ``forecaster`` gives: shared, by branch and by part of the feature.

        Args:
            grid: the noise levels of the run.
            computed_steps: the steps at which the network runs.
            forecaster: gives the rows.
            site: where the feature is taken.
            provenance: text about the plan's origin; by default the forecaster.
            branch_steps: computed steps of the branches that skip some of ``computed_steps``.
        """
        computed = check_computed_steps(computed_steps, len(grid))
        rows = forecaster.rows(computed, grid)
        words = provenance or {"forecaster": repr(forecaster)}
        apart = computed, grid, branch_steps or {}
        own, cross = forecaster.branch_rows(*apart), forecaster.cross_rows(*apart)
        parts = forecaster.part_rows(computed, grid)
        return cls(grid, computed, rows, str(site), words, own, cross, part_rows=parts)

    def of_branch(self, name: str) -> CompiledRows:
        """The rows that the branch or part ``name`` follows: its own if the plan has them, else shared."""
        return self._compiled.get(name) or self._compiled[""]

    @cached_property
    def _compiled(self) -> Mapping[str, CompiledRows]:
        branches = {
            name: CompiledRows(self, name, tuple(np.flatnonzero(np.diag(rows)).tolist()), rows)
            for name, rows in self.branch_rows.items()
        }
        parts = {name: CompiledRows(self, name, self.computed_steps, rows) for name, rows in self.part_rows.items()}
        return {**branches, **parts, "": CompiledRows(self, "", self.computed_steps, self.rows)}

    @property
    def nfe(self) -> int:
        """The number of computed steps: forward passes of a run without guidance."""
        return len(self.computed_steps)

    @property
    def expected_error(self) -> float | None:
        """Expected relative error of the final latent, from the provenance; ``None`` if unknown."""
        try:
            return float(self.provenance.get("expected_error", "").split()[0])
        except (IndexError, ValueError):
            return None

    @property
    def forecast_steps(self) -> tuple[int, ...]:
        """The steps that are forecast."""
        return self.of_branch("").forecast_steps

    @property
    def saves_nothing(self) -> bool:
        """Whether every branch computes every step."""
        return not any(rows.forecast_steps for rows in self._compiled.values())

    @property
    def last_uses(self) -> Mapping[int, int]:
        """For each computed step whose feature a later row needs: the last step that needs it."""
        return self.of_branch("").last_uses

    @property
    def sparse_rows(self) -> Mapping[int, tuple[list[int], list[float]]]:
        """For each forecast step: the computed steps that carry weight, and their weights."""
        return self.of_branch("").sparse_rows

    def live_steps(self, step: int) -> tuple[int, ...]:
        """Return the computed steps whose features are held while ``step`` runs.

        ``step`` itself is included if a later row needs its feature; -1 is the run's first sample.
        """
        return self.of_branch("").live_steps(step)

    @property
    def most_live(self) -> int:
        """The largest number of features held at once."""
        return self.of_branch("").most_live

    def tail(self, first_step: int) -> Plan:
        """Return the plan of the steps from ``first_step`` on, which the network that begins there can follow.

        Raises:
            PlanError: a branch does not compute ``first_step``, or a later step needs the features of earlier ones.
        """
        return tail_of(self, first_step)

    def explain(
        self, feature_shape: tuple[int, ...] | Sequence[tuple[int, ...]] | None = None, dtype: str = "float32"
    ) -> PlanExplanation:
        """Explain the plan: weights, gain and span of each forecast step, live features and their memory."""
        return explain(self, feature_shape, dtype)

    def to_differences(self) -> DifferenceExpansion:
        """The same plan as weights of backward differences (L2P's supplement, section E)."""
        return DifferenceExpansion.of(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            PlanFileError: the file cannot be written.
        """
        save_plan(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a file that :meth:`save` wrote.

        Raises:
            PlanFileError: the file is missing, damaged, no plan, or of a later format version.
        """
        return load_plan(path, cls)

    def __reduce__(self) -> tuple[Any, ...]:
        words, own, cross = dict(self.provenance), dict(self.branch_rows), dict(self.cross_rows)
        rows = self.rows, self.site, words, own, cross, self.mixing, dict(self.part_rows), self.start_row
        return Plan, (self.grid, self.computed_steps, *rows)

    @property
    def _start_rows(self) -> dict[str, np.ndarray]:
        return {} if self.start_row is None else {"": self.start_row}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Plan)
            and (self.grid, self.computed_steps, self.site) == (other.grid, other.computed_steps, other.site)
            and np.array_equal(self.rows, other.rows)
            and are_equal(self.branch_rows, other.branch_rows)
            and are_equal(self.cross_rows, other.cross_rows)
            and are_equal(self.part_rows, other.part_rows)
            and self.mixing == other.mixing
            and are_equal(self._start_rows, other._start_rows)
        )

    def __hash__(self) -> int:
        return hash((self.grid, self.computed_steps, self.site, self.rows.tobytes()))
