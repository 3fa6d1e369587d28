"""A tiny pipeline with a composition in it, in the form of the sweep's fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tests.support.folders import whole
from tests.support.pipelines import ROWS

from benchmarks.sweep import own
from benchmarks.sweep.calls import Calls, counted
from benchmarks.sweep.fixtures import Built, Fixture
from benchmarks.sweep.trial import SITES

Inputs = dict[str, Any]
PROMPT = "a red cat"


class NotHereError(Exception):
    """The composition needs what this machine or this pipeline lacks; the message says what."""


class Graphs:
    """A backend of ``torch.compile`` that compiles by inductor and counts the runs of what it compiled.

    Hooks inside compiled code would change the code, so that calls are counted here.

    Attributes:
        in_place: whether a graph is the whole network, and no hook may be put on it.
    """

    def __init__(self, name: str, in_place: bool = False) -> None:
        self.in_place = in_place
        self._name = name
        self._calls = Calls()

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        """Compile a graph."""
        from torch._inductor.compile_fx import compile_fx

        compiled: Any = compile_fx(graph, example_inputs)

        def run(*args: Any) -> Any:
            calls = self._calls
            calls.layers[self._name] += 1
            if self.in_place:
                calls.modules[self._name] += 1
                calls.at[self._name].add(calls.steps)
            return compiled(*args)

        return run

    @contextmanager
    def counted(self, pipe: Any) -> Iterator[Calls]:
        """Count the calls inside the context."""
        with counted(pipe, inside=False, without=(self._name,) if self.in_place else ()) as self._calls:
            yield self._calls
        self._calls = Calls()  # later runs are not those of this context


class Composed(Built):
    """A pipeline of this project's tables, which a composition changes.

    Attributes:
        name: of the row in the tables.
        edits: functions that change the arguments of a call.
        graphs: counts the runs of compiled code, ``None`` if nothing is compiled.
        call: makes the call; the arrays that it returns are compared.
    """

    def __init__(self, name: str, with_text: bool = False) -> None:
        self.name = name
        self.edits: list[Callable[[Inputs], Inputs]] = []
        self.graphs: Graphs | None = None
        torch.manual_seed(0)  # biases keep a part of what they are made with
        super().__init__(Fixture(own.FILE, name, ROWS[name].kind))
        if with_text:
            torch.manual_seed(0)
            self.pipe = whole(name)
            self.edits.append(_prompted)

    @property
    def denoiser(self) -> str:
        """The name of the module that is called at each step."""
        return "unet" if getattr(self.pipe, "unet", None) is not None else "transformer"

    @property
    def model(self) -> Any:
        """The module that is called at each step."""
        return getattr(self.pipe, self.denoiser)

    def inputs(self, seed: int) -> Inputs:
        """The arguments of a call, as the composition has them."""
        inputs = super().inputs(seed)
        for edit in self.edits:
            inputs = edit(inputs)
        return inputs

    def give(self, **options: Any) -> None:
        """Set arguments of all calls."""
        self.edits.append(lambda inputs: {**inputs, **options})

    def counted(self) -> AbstractContextManager[Calls]:
        """Counts the calls inside the context."""
        return super().counted() if self.graphs is None else self.graphs.counted(self.pipe)


class BrokenOff(Composed):
    """Each call is broken off by an exception in its callback, and followed by a whole one."""

    def run(self, seed: int = 0) -> list[np.ndarray]:
        """A call that is broken off at step 4, then a whole one."""
        self.edits.append(lambda inputs: {**inputs, "callback_on_step_end": _break_off})
        try:
            super().run(seed)
        except InterruptedError:
            pass
        finally:
            self.edits.pop()
        return super().run(seed)


def _break_off(_: Any, step: int, __: Any, kept: Inputs) -> Inputs:
    if step == 3:
        raise InterruptedError
    return kept


def _prompted(inputs: Inputs) -> Inputs:
    """A prompt in place of embeddings."""
    kept = {name: value for name, value in inputs.items() if "embeds" not in name}
    return {**kept, "prompt": PROMPT}


@dataclass(frozen=True)
class Composition:
    """What users put around a pipeline.

    Attributes:
        area: the section of the page.
        name: what it is.
        pipelines: rows of this project's tables that it is tried on.
        change: puts it in.
        with_text: whether the pipelines have text encoders and take prompts.
        late: whether it can be put in while Foreseer is attached.
        ranks: the number of processes.
        built: makes the pipeline.
        sites: where features are taken.
    """

    area: str
    name: str
    pipelines: tuple[str, ...]
    change: Callable[[Composed], None]
    with_text: bool = False
    late: bool = False
    ranks: int = 1
    built: Callable[..., Composed] = Composed
    sites: tuple[str, ...] = SITES


@dataclass(frozen=True)
class Cell:
    """A composition on one pipeline."""

    composition: Composition
    pipeline: str

    @property
    def about(self) -> dict[str, Any]:
        """Identifies the cell in results."""
        area, name = self.composition.area, self.composition.name
        kind = ROWS[self.pipeline].kind
        return {"cell": f"{area}: {name}: {self.pipeline}", "area": area, "composition": name, "pipeline": kind}

    def bare(self) -> Composed:
        """The pipeline without the composition."""
        return self.composition.built(self.pipeline, self.composition.with_text)

    def composed(self) -> Composed:
        """The pipeline with the composition."""
        built = self.bare()
        self.composition.change(built)
        return built
