"""Answering calls of a model's sub-modules in their place, during one forward pass of one thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from foreseer.attach.containers import UnknownContainerError, flatten, rebuild
from foreseer.attach.hooks import Forward, Interception
from foreseer.attach.site import NoFeatureError, SiteError

LEFT_OUT = "the network left out what it called when it was last computed (compiled since then, or replaced)"
# What a network may raise when it goes on from the wrong place.
WRONG_PLACE = (SiteError, UnknownContainerError, RuntimeError, IndexError, TypeError, ValueError)

Handler = Callable[[nn.Module, Forward, tuple[Any, ...], dict[str, Any]], Any]
SomeHandler = TypeVar("SomeHandler", bound=Handler)


class Bypass:
    """Stands before sub-modules: inside :meth:`handled_by` a handler answers their calls, else they run."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._interceptions: list[Interception] = []
        self._places: list[tuple[nn.Module, str, nn.Module]] = []
        self._threads = threading.local()

    @property
    def handler(self) -> Handler | None:
        """What answers in this thread."""
        return getattr(self._threads, "handler", None)

    def install(self, units: Iterable[nn.Module]) -> None:
        """Stand before ``units``, and no others."""
        self.remove()
        apart = {id(unit): unit for unit in units}
        for unit in apart.values():
            self._interceptions.append(Interception(unit, self._call_of(unit)))
            self._interceptions[-1].install()
        self._places = _places(self._model, apart)

    def remove(self) -> None:
        """Leave the units as they were found."""
        while self._interceptions:
            self._interceptions[-1].remove()
            self._interceptions.pop()
        self._places = []

    def check_in_place(self, output: Any) -> None:
        """See that all units are still where they were found in the model.

        Raises:
            NoFeatureError: another module stands in the place of one; ``output`` is what the network returned.
        """
        if any(parent._modules.get(name) is not unit for parent, name, unit in self._places):
            raise NoFeatureError(LEFT_OUT, output)

    @contextmanager
    def handled_by(self, handler: SomeHandler) -> Iterator[SomeHandler]:
        """Have ``handler`` answer this thread's calls: it is given the module, its own call and the arguments."""
        before = self.handler
        try:
            self._threads.handler = handler
            yield handler
        finally:
            self._threads.handler = before

    def _call_of(self, unit: nn.Module) -> Forward:
        def call(forward: Forward, *args: Any, **kwargs: Any) -> Any:
            handler = self.handler
            return forward(*args, **kwargs) if handler is None else handler(unit, forward, args, kwargs)

        return call


def _places(model: nn.Module, units: Container[int]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Each module on the way from ``model`` to the units, these known by id, with its parent and its name there."""
    found = {name for name, module in model.named_modules() if name and id(module) in units}
    for name in tuple(found):
        found.update(itertools.accumulate(name.split("."), "{}.{}".format))
    return [
        (model.get_submodule(parent), last, model.get_submodule(name))
        for name in found
        for parent, _, last in [name.rpartition(".")]
    ]


@dataclass
class Capture:
    """Lets the units run and keeps what they give.

    Attributes:
        keep: what is kept of an output.
        calls: each unit called and what was kept, in order.
    """

    keep: Callable[[Any], Any]
    calls: list[tuple[nn.Module, Any]] = field(default_factory=list)

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the unit."""
        output = forward(*args, **kwargs)
        self.calls.append((module, self.keep(output)))
        return output


@dataclass
class Replay:
    """Gives the outputs of ``calls``, in order, for as many calls of the same units.

    Attributes:
        calls: each unit expected and its output.
        position: how many calls there were.
    """

    calls: list[tuple[nn.Module, Any]]
    position: int = 0

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The unit's output, without running it.

        Raises:
            SiteError: another unit was expected.
        """
        if self.position >= len(self.calls) or self.calls[self.position][0] is not module:
            raise SiteError("the network called its blocks in another order than when it was last computed")
        self.position += 1
        return self.calls[self.position - 1][1]

    def finish(self) -> None:
        """See that all were called.

        Raises:
            SiteError: some were not: something else runs in their place, or the network left them out.
        """
        check_all_called(self.position, self.calls)


def check_all_called(called: int, known: Sized) -> None:
    """See that a forecast step called all that the last computed one did.

    Raises:
        SiteError: it called less.
    """
    if called < len(known):
        raise SiteError(LEFT_OUT)


def stand_in(output: Any) -> Any:
    """``output`` with every tensor replaced by a zero spread over its shape: right in shape, without content."""
    zeros = (tensor.new_zeros(()).expand(tensor.shape) for tensor in flatten(output))
    return rebuild(output, zeros)
