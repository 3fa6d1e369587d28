"""Pipelines without a fixture, made of another fixture's components and of tiny ones.

A component is the lender's if it has the class that the pipeline's signature names; else it is made: a scheduler from
the lender's settings, a control network from its network, any other from a tiny configuration.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import diffusers
import numpy as np
import transformers
from PIL import Image

from benchmarks.sweep.reasons import NETWORKS, NO_LENDER, network_of
from benchmarks.sweep.tiny import ARGUMENTS, CHANGES, CONFIGURATIONS, TEXT_WIDTH

FILE = "borrowed"
SIZE = 32
FRAMES = 5
TRIES = 4  # pipelines that may lend
PICTURES = ("image", "mask", "video")
LEFT_OUT = ("safety_checker", "watermarker")
EDITS = (
    "Img2Img",
    "Inpaint",
    "ImageTo",
    "VideoTo",
    "Edit",
    "Upscale",
    "Resolution",
    "Refiner",
    "Cycle",
    "Control",
    "Omni",
    "I2V",
)
LIBRARIES = (diffusers.ConfigMixin, transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase)


class Lender:
    """A fixture of upstream that lends its components and arguments.

    Args:
        case: an instance of upstream's class.
        components: makes its components.
    """

    def __init__(self, case: Any, components: Callable[[Any], dict[str, Any]]) -> None:
        self._make = case.get_dummy_inputs
        self.components = components(case)

    def inputs(self, seed: int) -> dict[str, Any]:
        """The arguments of a call."""
        accepted = inspect.signature(self._make).parameters
        given = {"device": "cpu", "seed": seed}
        return self._make(**{name: value for name, value in given.items() if name in accepted})


class Case:
    """A pipeline in the form of upstream's test classes.

    Args:
        name: the pipeline.
        pipelines: those that upstream has fixtures of.
        lend: gives the fixture of one.

    Raises:
        LookupError: no fixture has the components that it needs.
    """

    def __init__(self, name: str, pipelines: Iterable[str], lend: Callable[[str], Lender]) -> None:
        self.pipeline_class = getattr(diffusers, name)
        self._name = name
        for other in ranked(name, pipelines)[:TRIES]:
            with suppress(Exception):  # it lacks a file of the Hub, or a component of the class
                self._lender = lend(other)
                self.get_dummy_components()
                return
        raise LookupError(f"{NO_LENDER} {', '.join(sorted(_needed(self.pipeline_class)))}")

    def get_dummy_components(self) -> dict[str, Any]:
        """The components, by the names of the pipeline's signature."""
        lent, changes = self._lender.components, CHANGES.get(self._name, {})
        taken = _parameters(self.pipeline_class.__init__)
        return {name: _component(each, lent, changes.get(name)) for name, each in taken.items()}

    def get_dummy_inputs(self, seed: int = 0) -> dict[str, Any]:
        """The lender's arguments that this pipeline takes, and made ones where it needs more."""
        taken, lent = _parameters(self.pipeline_class.__call__), self._lender.inputs(seed)
        lent.pop("output_type", None)  # a pipeline's own default works in any case
        inputs = {name: value for name, value in lent.items() if name in taken}
        inputs |= {name: make(seed) for name, make in ARGUMENTS.get(self._name, {}).items()}
        height, width = (inputs.get(side) or SIZE for side in ("height", "width"))
        noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
        for name, each in taken.items():
            needed = each.default is each.empty
            pictures = name.split("_")[-1] in PICTURES and any(text in self._name for text in EDITS)
            if name not in inputs and (needed or pictures) and not name.startswith("ip_"):
                if "mask" in name:
                    inputs[name] = picture.convert("L")
                elif name == "video" and (needed or "VideoTo" in self._name):
                    inputs[name] = [picture] * FRAMES
                elif "image" in name:
                    inputs[name] = picture
                elif needed:
                    inputs[name] = lent.get("prompt", "a picture")
        return inputs


def ranked(name: str, pipelines: Iterable[str]) -> list[str]:
    """The pipelines that have all components ``name`` needs; the same network and alike names first."""
    wanted = _parameters(getattr(diffusers, name).__init__)
    needed = _needed(getattr(diffusers, name))

    def fit(other: str) -> tuple[bool, int, float]:
        theirs = _parameters(getattr(diffusers, other).__init__)
        shared = sum(_kind(theirs[part]) is _kind(each) for part, each in wanted.items() if part in theirs)
        return network_of(other) == network_of(name), shared, difflib.SequenceMatcher(None, other, name).ratio()

    known = [other for other in pipelines if hasattr(diffusers, other)]
    fitting = [other for other in known if needed <= _parameters(getattr(diffusers, other).__init__).keys()]
    return sorted(fitting, key=fit, reverse=True)


def _needed(pipeline: Any) -> set[str]:
    """The components that only a lender can give."""
    return {each.name for each in _parameters(pipeline.__init__).values() if not _can_make(each)}


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(function).parameters.values()
    return {each.name: each for each in found if each.kind not in kinds and each.name not in ("self", "kwargs")}


def _can_make(parameter: inspect.Parameter) -> bool:
    """Whether a component needs no lender."""
    kind = _kind(parameter)
    if parameter.default is not parameter.empty or parameter.name in LEFT_OUT:
        return True
    if kind is None or kind is diffusers.SchedulerMixin:
        return False
    known = kind.__name__ in CONFIGURATIONS or any(hasattr(kind, f"from_{name}") for name in NETWORKS)
    return known or not issubclass(kind, diffusers.ModelMixin)


def _component(parameter: inspect.Parameter, lent: Mapping[str, Any], changes: Mapping[str, Any] | None) -> Any:
    """The lender's component, or one that is made."""
    kind, value = _kind(parameter), lent.get(parameter.name)
    if value is not None and _serves(value, kind):
        return _remade(type(value), value.config, changes) if changes else value
    if kind is None or (value is None and (parameter.default is not parameter.empty or parameter.name in LEFT_OUT)):
        return None if parameter.default is parameter.empty else parameter.default
    settings = {**CONFIGURATIONS.get(kind.__name__, {}), **(changes or {})}
    settings = {name: _width(each, lent) for name, each in settings.items()}
    network = next((lent[name] for name in NETWORKS if hasattr(kind, f"from_{name}") and name in lent), None)
    if network is not None:
        return _control_network(kind, network, settings)
    if settings:
        return kind(**settings)
    if issubclass(kind, diffusers.SchedulerMixin):
        other = next((each for each in lent.values() if isinstance(each, diffusers.SchedulerMixin)), None)
        return kind() if other is None else kind.from_config(other.config)
    if issubclass(kind, diffusers.ConfigMixin):
        raise LookupError(kind.__name__)
    return kind.from_pretrained(f"tiny-{kind.__name__.lower()}")


def _serves(value: Any, kind: Any) -> bool:
    """Whether a lender's component does for one of class ``kind``: text encoders and tokenizers always do."""
    return kind is None or isinstance(value, kind) or not issubclass(kind, diffusers.ConfigMixin)


def _remade(kind: Any, config: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    """A network of ``config`` with some settings changed."""
    taken = _parameters(kind.__init__)
    return kind(**{name: value for name, value in {**config, **changes}.items() if name in taken})


def _width(value: Any, lent: Mapping[str, Any]) -> Any:
    return lent["text_encoder"].config.hidden_size if value == TEXT_WIDTH else value


def _control_network(kind: Any, network: Any, settings: Mapping[str, Any]) -> Any:
    """A control network of ``network``."""
    make = next(getattr(kind, f"from_{name}") for name in NETWORKS if hasattr(kind, f"from_{name}"))
    taken = _parameters(make)
    if sum(each.default is each.empty for each in taken.values()) > 1:  # it fills one that exists
        return make(_remade(kind, network.config, settings), network)
    return make(network, **settings) if settings.keys() <= taken.keys() else _remade(kind, network.config, settings)


def _kind(parameter: inspect.Parameter) -> Any:
    """The first class of a parameter's annotation that the libraries can make."""
    options = typing.get_args(parameter.annotation) or (parameter.annotation,)
    kinds = [each for each in options if inspect.isclass(each)]
    return next((each for each in kinds if issubclass(each, LIBRARIES) or hasattr(each, "from_pretrained")), None)
