"""Modular fixtures on the components of upstream's other fixtures: their own ones are kept on the Hub."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import diffusers

from benchmarks.sweep.reasons import NETWORKS, NO_COMPONENTS, network_of


class _Lent:
    """Gives upstream's test classes the pipeline that they would load from the Hub."""

    pipe: Any

    def get_pipeline(self, *_: Any, **__: Any) -> Any:
        """The pipeline."""
        return self.pipe


class ModularCase:
    """A modular fixture in the form of upstream's other test classes.

    Attributes:
        output_name: the output of the blocks that is compared.
    """

    def __init__(self, kind: Any, components: Mapping[str, Any]) -> None:
        self._case = type(kind.__name__, (kind, _Lent), {})()
        self._components = components
        self.output_name: str = self._case.output_name
        self.get_dummy_inputs: Callable[..., dict[str, Any]] = self._case.get_dummy_inputs

    def pipeline_class(self) -> Any:
        """The pipeline, of the fixture's blocks."""
        pipe = self._case.pipeline_blocks_class().init_pipeline()
        expected = {spec.name for spec in pipe.blocks.expected_components}
        pipe.update_components(**{name: part for name, part in self._components.items() if name in expected})
        self._case.pipe = pipe
        return self._case.get_pipeline()

    def get_dummy_components(self) -> dict[str, Any]:
        """No components: the pipeline is whole."""
        return {}


def lender(kind: Any, pipelines: Iterable[str]) -> str:
    """The pipeline that has a modular fixture's network, most of its components and the nearest name.

    Raises:
        LookupError: none has the network.
    """
    specs = {spec.name: spec.type_hint for spec in kind.pipeline_blocks_class().expected_components}
    network = next((getattr(specs[name], "__name__", None) for name in NETWORKS if name in specs), None)
    candidates = [name for name in pipelines if network_of(name) == network]
    if network is None or not candidates:
        raise LookupError(NO_COMPONENTS)

    wanted = kind.pipeline_class.__name__.replace("Modular", "")

    def fit(name: str) -> tuple[int, float]:
        likeness = difflib.SequenceMatcher(None, name, wanted).ratio()
        return len(specs.keys() & _parameters(name)), likeness

    return max(candidates, key=fit)


def _parameters(pipeline: str) -> set[str]:
    return set(inspect.signature(getattr(diffusers, pipeline).__init__).parameters)
