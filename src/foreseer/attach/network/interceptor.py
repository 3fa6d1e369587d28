"""Answering the calls of a model's submodules, during one forward pass of one thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from foreseer.attach.interception import Interception
from foreseer.attach.network.call import Forward, NetworkCall
from foreseer.attach.network.containers import UnknownContainerError, flatten, rebuild
from foreseer.attach.network.site_errors import NoFeatureError, SiteError

LEFT_OUT = "the network did not call all modules that it called when it was last computed (compiled or replaced since)"
# What a network may raise when some of its modules return recorded or empty outputs.
WRONG_PLACE = (
    SiteError,
    UnknownContainerError,
    RuntimeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
)

Handler = Callable[[nn.Module, NetworkCall], Any]
SomeHandler = TypeVar("SomeHandler", bound=Handler)


class Interceptor:
    """Intercepts the calls of submodules: within :meth:`handled_by` a handler answers them, else they run."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._interceptions: list[Interception] = []
        self._places: list[tuple[nn.Module, str, nn.Module]] = []
        self._threads = threading.local()

    @property
    def handler(self) -> Handler | None:
        """The handler of this thread, ``None`` outside :meth:`handled_by`."""
        return getattr(self._threads, "handler", None)

    def install(self, units: Iterable[nn.Module]) -> None:
        """Intercept the calls of ``units``, and of no other modules."""
        self.remove()
        unique = {id(unit): unit for unit in units}
        for unit in unique.values():
            self._interceptions.append(Interception(unit, self._call_of(unit)))
            self._interceptions[-1].install()
        self._places = _places(self._model, unique)

    def remove(self) -> None:
        """Restore the units."""
        while self._interceptions:
            self._interceptions[-1].remove()
            self._interceptions.pop()
        self._places = []

    def check_in_place(self, output: Any) -> None:
        """Check that all units are still where they were in the model.

        Raises:
            NoFeatureError: another module took the place of one; ``output`` is what the network returned.
        """
        if any(parent._modules.get(name) is not unit for parent, name, unit in self._places):
            raise NoFeatureError(LEFT_OUT, output)

    @contextmanager
    def handled_by(self, handler: SomeHandler) -> Iterator[SomeHandler]:
        """Answer this thread's calls with ``handler``, which receives the module and its call."""
        before = self.handler
        try:
            self._threads.handler = handler
            yield handler
        finally:
            self._threads.handler = before

    def _call_of(self, unit: nn.Module) -> Forward:
        def call(forward: Forward, *args: Any, **kwargs: Any) -> Any:
            handler = self.handler
            return forward(*args, **kwargs) if handler is None else handler(unit, NetworkCall(forward, args, kwargs))

        return call


def _places(model: nn.Module, units: Container[int]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return the modules on the paths from ``model`` to ``units`` (module ids), as (parent, name, module)."""
    paths = {name for name, module in model.named_modules() if name and id(module) in units}
    for name in tuple(paths):
        paths.update(itertools.accumulate(name.split("."), "{}.{}".format))
    return [
        (model.get_submodule(parent), last, model.get_submodule(name))
        for name in paths
        for parent, _, last in [name.rpartition(".")]
    ]


@dataclass
class Capture:
    """Handler that runs the units and keeps what ``keep`` makes of their outputs.

    Attributes:
        keep: applied to each output.
        calls: each unit called and what was kept, in order.
    """

    keep: Callable[[Any], Any]
    calls: list[tuple[nn.Module, Any]] = field(default_factory=list)

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """Run the unit."""
        output = call.run()
        self.calls.append((module, self.keep(output)))
        return output


@dataclass
class Replay:
    """Handler that returns recorded outputs, in order, for the same sequence of units.

    Attributes:
        calls: each unit expected and its output.
        position: number of calls so far.
    """

    calls: list[tuple[nn.Module, Any]]
    position: int = 0

    def __call__(self, module: nn.Module, call: NetworkCall) -> Any:
        """The recorded output; the unit does not run.

        Raises:
            SiteError: another unit was expected.
        """
        if self.position >= len(self.calls) or self.calls[self.position][0] is not module:
            raise SiteError("the network called its blocks in another order than when it was last computed")
        self.position += 1
        return self.calls[self.position - 1][1]

    def finish(self) -> None:
        """Check that all units were called.

        Raises:
            SiteError: some were not: something else runs in their place, or the network left them out.
        """
        check_all_called(self.position, self.calls)


def check_all_called(called: int, recorded: Sized) -> None:
    """Check that a forecast step called every module that the last computed step called.

    Raises:
        SiteError: it called fewer.
    """
    if called < len(recorded):
        raise SiteError(LEFT_OUT)


def placeholder(output: Any) -> Any:
    """``output`` with every tensor replaced by one zero expanded to its shape."""
    zeros = (tensor.new_zeros(()).expand(tensor.shape) for tensor in flatten(output))
    return rebuild(output, zeros)
