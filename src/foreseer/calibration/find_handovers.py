"""Find where one network of a pipeline takes a run over from another."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from foreseer.attach.accelerate import attach
from foreseer.attach.network.denoisers import find_denoisers
from foreseer.calibration.record import record_run
from foreseer.errors import ForeseerWarning
from foreseer.forecast import Reuse
from foreseer.pipelines import call_arguments, run
from foreseer.plan import Policy
from foreseer.schedule import Uniform


def find_handovers(pipe: Any, prompt: Any, call: Mapping[str, Any], steps: int) -> tuple[int, ...]:
    """Return the steps of a run, counted from its first, at which another network of the pipeline begins.

    Each network computes its first step only, and its output is reused at the others.

    Args:
        pipe: a diffusers pipeline, not attached.
        prompt: any of the prompts.
        call: options of the pipeline's call.
        steps: number of steps of the run.
    """
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
