"""Steps at which one network takes a run over from another, as Wan 2.2's second transformer does."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from foreseer.errors import ForeseerWarning
from foreseer.forecast import Reuse
from foreseer.forecast.base import Forecaster
from foreseer.grid import Grid
from foreseer.plan import Policy
from foreseer.schedule import Schedule, Uniform


def find_handovers(pipe: Any, prompt: Any, call: Mapping[str, Any], steps: int) -> tuple[int, ...]:
    """Return the steps of a run, counted from its first, at which another network of the pipeline begins.

    Each network computes its first step only, and its output is reused at the others.

    Args:
        pipe: a diffusers pipeline, not attached.
        prompt: any of the prompts.
        call: options of the pipeline's call.
        steps: number of steps of the run.
    """
    # ComfyUI fits rows without diffusers, by other functions of this file.
    from foreseer.attach.accelerate import attach
    from foreseer.attach.network.denoisers import find_denoisers
    from foreseer.calibration.record import record_run
    from foreseer.pipelines import call_arguments, run

    if len(find_denoisers(pipe)) < 2:
        return ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeseerWarning)
        with attach(pipe, Policy(Uniform(interval=steps), Reuse())) as handle, record_run(pipe) as trajectory:
            run(pipe, call_arguments(pipe, prompt, dict(call)), seed=0)
        record = handle.record
    begun: dict[str, int] = {}
    for name, computed in record.computed.items() if record is not None else ():
        network = name.split()[0]
        begun[network] = min(begun.get(network, steps), min(computed) - trajectory.first_step)
    return tuple(sorted({step for step in begun.values() if 0 < step < steps}))


def network_begins(handovers: Sequence[int], step: int) -> int:
    """Return the step at which the network that computes ``step`` began.

    >>> network_begins((5,), 4), network_begins((5,), 5), network_begins((), 5)
    (0, 5, 0)
    """
    return max((each for each in handovers if each <= step), default=0)


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
