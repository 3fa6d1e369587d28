"""Every scheduler that diffusers exports, in place of the pipeline's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import diffusers.schedulers

from benchmarks.compositions.composed import Composed, Composition

AREA = "Schedulers"
PIPELINES = ("flux", "pixart_sigma", "stable_diffusion")
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def exported() -> dict[str, type]:
    """The schedulers by name."""
    kinds = {
        name: getattr(home, name)
        for home in (diffusers, diffusers.schedulers)
        for name in dir(home)
        if name.endswith("Scheduler") and not name.startswith("Flax")
    }
    return {name: kind for name, kind in sorted(kinds.items()) if inspect.isclass(kind)}


def _as(kind: Any) -> Callable[[Composed], None]:
    def change(built: Composed) -> None:
        taken = inspect.signature(kind.__init__).parameters
        flow = FLOW if built.name == "flux" and FLOW.keys() <= taken.keys() else {}
        built.pipe.scheduler = kind.from_config(built.pipe.scheduler.config, **flow)

    return change


COMPOSITIONS = tuple(
    Composition(AREA, name.removesuffix("Scheduler"), PIPELINES, _as(kind), late=True, sites=("output",))
    for name, kind in exported().items()
)
