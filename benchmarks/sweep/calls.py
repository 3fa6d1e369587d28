"""Calls of a pipeline's modules and layers, counted from outside."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

HEAVY = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Calls:
    """Calls counted from outside, by forward hooks.

    Attributes:
        modules: per module of the pipeline, the number of its calls.
        layers: per module, the number of calls of linear and convolution layers inside it.
        steps: calls of the scheduler's ``step``.
        at: per module, the numbers of steps made before its calls.
    """

    def __init__(self) -> None:
        self.modules: Counter[str] = Counter()
        self.layers: Counter[str] = Counter()
        self.steps = 0
        self.at: dict[str, set[int]] = defaultdict(set)


@contextmanager
def counted(pipe: Any, inside: bool = True, without: Collection[str] = ()) -> Iterator[Calls]:
    """Count the calls of all modules of ``pipe`` and the steps of its scheduler.

    Args:
        pipe: a pipeline.
        inside: whether calls of layers are counted too.
        without: names of modules that are not counted.
    """
    calls, hooks, stepped = Calls(), [], Counter()

    def count(counter: Counter[str], name: str) -> Any:
        return lambda *_: counter.update([name])

    def note_step(name: str) -> Any:
        return lambda *_: calls.at[name].add(calls.steps)

    for name, module in modules_of(pipe).items():
        if name in without:
            continue
        hooks.append(module.register_forward_hook(count(calls.modules, name)))
        hooks.append(module.register_forward_hook(note_step(name)))
        hooks += [
            part.register_forward_hook(count(calls.layers, name))
            for part in module.modules()
            if inside and isinstance(part, HEAVY)
        ]
    scheduler = getattr(pipe, "scheduler", None)
    step = getattr(type(scheduler), "step", None)
    if step is not None:

        @functools.wraps(step)  # pipelines read its signature
        def counting(self: Any, *args: Any, **options: Any) -> Any:
            stepped[id(self)] += 1
            calls.steps = stepped[id(scheduler)] or max(stepped.values())  # a pipeline may step copies alone
            return step(self, *args, **options)

        type(scheduler).step = counting  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
        if step is not None:
            type(scheduler).step = step  # pyright: ignore[reportAttributeAccessIssue]


def modules_of(pipe: Any) -> dict[str, torch.nn.Module]:
    """The pipeline's modules by name."""
    parts = {**vars(pipe), **getattr(pipe, "components", {})}
    return {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
