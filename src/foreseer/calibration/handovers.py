"""Steps at which one network takes a run over from another, as Wan 2.2's second transformer does."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
from foreseer.schedule import Schedule


def steps_by_network(rule: Schedule, grid: Grid, handovers: Sequence[int]) -> tuple[int, ...]:
    """Return the computed steps of a run in which each network computes its first step.

    Later networks have the budget that earlier ones leave, as in a run under a policy.

    >>> from foreseer.schedule import Explicit
    >>> steps_by_network(Explicit((0, 2, 6)), Grid.uniform(8), (4,))
    (0, 2, 4, 6)
    """
    computed: list[int] = []
    for begin, end in itertools.pairwise((0, *handovers, len(grid))):
        part = [begin + step for step in rule.on(grid, begin, len(computed))]
        computed += [step for step in part if step < end]
    return tuple(computed)


def rows_by_network(
    forecaster: Forecaster, computed: Sequence[int], grid: Grid, handovers: Sequence[int]
) -> Float64[np.ndarray, "T T"]:
    """Return the rows of a run in which no network uses the features of another."""
    rows = np.zeros((len(grid), len(grid)))
    for begin, end in itertools.pairwise((0, *handovers, len(grid))):
        own = tuple(step - begin for step in computed if begin <= step < end)
        rows[begin:end, begin:end] = forecaster.rows(own, grid.tail(begin))[: end - begin, : end - begin]
    return rows
