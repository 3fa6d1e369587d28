"""Fixtures: those of a checkout of diffusers, and this project's; built in separate processes."""

from __future__ import annotations

import ast
import importlib
import inspect
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sweep import borrowed, offline, own
from benchmarks.sweep.calls import Calls, counted, modules_of
from benchmarks.sweep.modular import ModularCase, lender

STEPS = 8
OURS = {own.FILE: "benchmarks.sweep.own", "benchmarks/sweep/kept.py": "benchmarks.sweep.kept"}
MARKS = {"pipeline_class": "pipelines", "pretrained_model_name_or_path": "modular_pipelines"}
_ADAPTERS = {"StableDiffusionMultiAdapterPipelineFastTests": "multi_adapter"}


@dataclass(frozen=True)
class Fixture:
    """A test class of upstream that builds a pipeline.

    Attributes:
        file: its file, relative to the checkout.
        name: the class.
        pipeline: the name of the pipeline's class.
        modular: whether it is a modular pipeline; its components are another fixture's.
    """

    file: str
    name: str
    pipeline: str
    modular: bool = False

    @property
    def key(self) -> str:
        """Identifies the fixture in results."""
        return f"{self.file}::{self.name}"


def find_fixtures(checkout: Path) -> list[Fixture]:
    """All pipeline and modular fixtures of a checkout, the first of each folder first."""
    fixtures = [
        fixture
        for mark, folder in MARKS.items()
        for path in sorted((checkout / "tests" / folder).rglob("test_*.py"))
        if "onnx" not in path.name
        for fixture in _fixtures_of(path, checkout, mark)
    ]
    place: Counter[str] = Counter()
    order = {}
    for fixture in fixtures:
        folder = str(Path(fixture.file).parent)
        order[fixture] = place[folder]
        place[folder] += 1
    return sorted(fixtures, key=lambda fixture: order[fixture])


def _fixtures_of(path: Path, checkout: Path, mark: str) -> Iterator[Fixture]:
    classes = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}
    for node in classes.values():
        if mark == "pipeline_class" and not _builds(node, classes):  # a slow test of published weights
            continue
        values = {
            target.id: ast.unparse(statement.value)
            for statement in node.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        if mark in values:
            file, pipeline = (
                str(path.relative_to(checkout)),
                values.get("pipeline_class", node.name).removesuffix("Wrapper"),
            )
            yield Fixture(file, node.name, pipeline, mark != "pipeline_class")


def _builds(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    """Whether a class, or a base in the same file, makes components."""
    methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    bases = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    return "get_dummy_components" in methods or any(_builds(base, classes) for base in bases)


class Built:
    """A fixture's pipeline, and calls of it.

    Attributes:
        pipe: the pipeline, on the CPU.
        steps_name: the argument that holds the number of steps, ``None`` if the call has none.
        options: arguments in place of the fixture's own.
    """

    def __init__(self, fixture: Fixture) -> None:
        offline.install()
        self.options: dict[str, Any] = {}
        self.steps_name: str | None = None
        self._case: Any = _case(fixture)
        self._returned = {"output": self._case.output_name} if fixture.modular else {}
        torch.manual_seed(0)
        self.pipe = self._case.pipeline_class(**_components(self._case))
        self.pipe.set_progress_bar_config(disable=True)
        offline.fit(self.pipe)
        _fill_zeros(self.pipe)
        for part in modules_of(self.pipe).values():
            part.eval()
        names = inspect.signature(self.pipe.__call__).parameters
        inputs = self.inputs(0)
        wanted = [name for name in ("num_inference_steps", *inputs) if name.endswith("num_inference_steps")]
        self.steps_name = next((name for name in wanted if name in names or name in inputs), None)

    def inputs(self, seed: int) -> dict[str, Any]:
        """The arguments of a call."""
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        make = self._case.get_dummy_inputs
        accepted = inspect.signature(make).parameters
        given = {"device": "cpu", "seed": seed}
        inputs = make(**{name: value for name, value in given.items() if name in accepted})
        if isinstance(inputs.get("generator"), torch.Generator):
            inputs["generator"] = torch.Generator().manual_seed(seed)
        if self.steps_name is not None:
            inputs[self.steps_name] = STEPS
            inputs.pop("timesteps", None)
            if "intermediate_timesteps" in inspect.signature(self.pipe.__call__).parameters:
                inputs["intermediate_timesteps"] = None  # Sana Sprint's default is for two steps
        if isinstance(inputs.get("strength"), float):
            inputs["strength"] = max(inputs["strength"], 0.75)  # else a run of one or two steps
        return {**inputs, **self.options}

    def counted(self) -> AbstractContextManager[Calls]:
        """Counts the calls inside the context."""
        return counted(self.pipe)

    def run(self, seed: int = 0) -> list[np.ndarray]:
        """One call; the arrays that it returns."""
        inputs = self.inputs(seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            return list(arrays(self.pipe(**inputs, **self._returned)))


def _components(case: Any) -> dict[str, Any]:
    make = case.get_dummy_components
    parameters = inspect.signature(make).parameters.values()
    missing = [each.name for each in parameters if each.default is each.empty]
    if missing == ["adapter_type"]:
        return make(_ADAPTERS.get(type(case).__name__, "full_adapter"))
    return make()


def _case(fixture: Fixture) -> Any:
    """An instance of the fixture's class."""
    if fixture.file in OURS:
        return importlib.import_module(OURS[fixture.file]).Case(fixture.name)
    if fixture.file == borrowed.FILE:
        others = {each.pipeline: each for each in _upstream() if not each.modular}
        return borrowed.Case(fixture.name, others, lambda name: borrowed.Lender(_case(others[name]), _components))
    module = importlib.import_module(fixture.file.removesuffix(".py").replace("/", "."))
    kind = getattr(module, fixture.name)
    if not fixture.modular:
        return kind("__init__") if hasattr(kind, "assertEqual") else kind()
    others = [each for each in _upstream() if not each.modular]
    pipeline = lender(kind, [each.pipeline for each in others])
    return ModularCase(kind, _components(_case(next(each for each in others if each.pipeline == pipeline))))


def _upstream() -> list[Fixture]:
    return find_fixtures(Path(*importlib.import_module("tests").__path__).parent)


def borrowed_fixtures(pipelines: Iterable[str]) -> list[Fixture]:
    """Fixtures of ``pipelines``, made of the components of others."""
    return [Fixture(borrowed.FILE, name, name) for name in sorted(pipelines)]


def own_fixtures(tried: Iterable[str]) -> list[Fixture]:
    """This project's fixtures of pipelines other than ``tried``, one each."""
    from benchmarks.sweep import kept  # imports this project's tests

    kinds = {row.kind: name for name, row in reversed(own.rows().items())}
    fixtures = [Fixture(own.FILE, name, kind) for kind, name in kinds.items()]
    fixtures += [Fixture(kept.FILE, name, name) for name in kept.KEPT]
    done = set(tried)
    return [each for each in fixtures if each.pipeline not in done]


def arrays(value: Any) -> Iterator[np.ndarray]:
    """All numbers in what a pipeline returns."""
    if isinstance(value, torch.Tensor):
        yield value.detach().float().numpy()
    elif isinstance(value, np.ndarray):
        yield value
    elif hasattr(value, "getpixel"):
        yield np.asarray(value)
    elif isinstance(value, dict):
        for each in value.values():
            yield from arrays(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from arrays(each)
    elif hasattr(value, "__dict__"):
        for each in vars(value).values():
            yield from arrays(each)


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    """Whether both hold the same numbers, bit for bit."""
    return len(first) == len(second) > 0 and all(
        a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(first, second, strict=True)
    )


def _fill_zeros(pipe: Any) -> None:
    """Put small numbers into parameters that are all zeros: a zero head would make every output equal."""
    generator = torch.Generator().manual_seed(1)
    for module in modules_of(pipe).values():
        for parameter in module.parameters():
            if parameter.is_floating_point() and not parameter.any():
                noise = torch.randn(parameter.shape, generator=generator) * 0.02
                parameter.data.copy_(noise.to(parameter.dtype))
