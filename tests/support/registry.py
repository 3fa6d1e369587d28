"""Instances of registered classes from their annotations, so that no test must list them.

A frozen dataclass is made from its defaults; fields without one get a value by their name. Then every field is varied
by its type, one at a time, and what the class refuses is left out.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

import numpy as np

from foreseer.errors import ForeseerError
from foreseer.grid import Grid
from foreseer.kernel import Branches, Kernel

STEPS = 12
BRANCHES = ("cond", "uncond")
T = TypeVar("T")


def _kernel() -> Kernel:
    """A kernel of two branches under guidance 3, on smooth random trajectories."""
    generator = np.random.default_rng(0)
    levels = Grid.uniform(STEPS).levels
    waves = np.cos(np.outer(np.arange(6), levels)) * 0.5 ** np.arange(6)[:, None]
    features = np.hstack([generator.normal(size=(2, 32, 6)) @ waves for _ in BRANCHES])  # (prompts, 64, T)
    stacked = np.concatenate(np.split(features, 2, axis=1), axis=2)  # (prompts, 32, 2 T)
    moments = np.einsum("pdi,pdj->pij", stacked, stacked) / 32
    branches = Branches(BRANCHES, np.array([3.0, -2.0]), moments)
    return Kernel(
        Grid.uniform(STEPS),
        branches.guided @ moments @ branches.guided.T,
        final_squares=np.ones(2),
        effects=np.full(STEPS, 1.0 / STEPS),
        sensitivity=1.0,
        branches=branches,
    )


KERNEL = _kernel()
MATRIX = np.tril(np.random.default_rng(0).normal(size=(STEPS, STEPS)))
# Values of fields without a default, and of one of several targets, by the field's name.
ARGUMENTS: Mapping[str, Any] = {
    "kernel": KERNEL,
    "matrix": MATRIX,
    "steps": (0, 1, 4, 7),
    "interval": 3,
    "forward_passes": 7,
    "nfe": 4,
}
VALUES: Mapping[type, tuple[Any, ...]] = {
    bool: (False, True),
    int: (*range(10), 64),
    float: (0.0, 0.3, 0.5, 1.0, 2.5),
    str: (),
}


def entries(room: Any, base: type[T]) -> list[type[T]]:
    """The registered classes of a room: those with a public name in it."""
    return [
        value
        for name, value in sorted(vars(room).items())
        if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value) and name[0] != "_"
    ]


def make(cls: type[T], **options: Any) -> T:
    """An instance from defaults, with values for the other fields by name."""
    fields = [field for field in dataclasses.fields(cls) if field.init]
    missing = (dataclasses.MISSING, dataclasses.MISSING)
    required = [field.name for field in fields if (field.default, field.default_factory) == missing]
    unknown = [name for name in required if name not in {**ARGUMENTS, **options}]
    assert not unknown, f"{cls.__name__} needs {unknown}: give them a value in ARGUMENTS"
    given = {name: ARGUMENTS[name] for name in required if name in ARGUMENTS}
    try:
        return cls(**{**given, **options})
    except ForeseerError:  # one of several targets must be given
        targets = {field.name: ARGUMENTS[field.name] for field in fields if field.name in ARGUMENTS}
        return cls(**{**targets, **options})


def variants(cls: type[T]) -> Iterator[T]:
    """Instances with each field varied by its type."""
    yield make(cls)
    hints = typing.get_type_hints(cls)
    seen = {repr(make(cls))}
    for field in dataclasses.fields(cls):
        for value in _values(hints[field.name]) if field.init else ():
            try:
                made = make(cls, **{field.name: value})
            except (ForeseerError, TypeError):  # of another type, which annotations refuse
                continue
            if repr(made) not in seen:
                seen.add(repr(made))
                yield made


def _values(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    union = typing.get_origin(hint) in (typing.Union, UnionType)
    parts = [part for part in (typing.get_args(hint) if union else (hint,)) if part is not NoneType]
    return tuple(value for part in parts if isinstance(part, type) for value in VALUES.get(part, ()))


def wrong_values(cls: type) -> Iterator[tuple[str, Any]]:
    """For each field values of a kind or size that no option has."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.init:
            yield field.name, object()
            if {int, float} & {hints[field.name], *typing.get_args(hints[field.name])}:
                yield from ((field.name, value) for value in ("two", [1], float("nan"), float("inf"), -(10**6)))
