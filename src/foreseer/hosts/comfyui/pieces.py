"""Pieces of a run within which the conditions stay the same: each is forecast by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Conditions = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Piece:
    """A part of a run: its steps from ``start`` to before ``stop``, of which ``first_steps`` must compute."""

    start: int
    stop: int
    first_steps: int = 1


def cut(levels: Sequence[float], conditions: Conditions) -> list[Piece]:
    """Cut a run where its conditions, ControlNets or LoRA-hook keyframes change.

    Args:
        levels: the noise levels (sigmas) of the run.
        conditions: the guider's processed conditions by name, whose times are sigmas.
    """
    everything = [condition for group in conditions.values() for condition in group]
    ranges = [bounds for condition in everything for bounds in _ranges(condition)]
    groups = {id(group): group for condition in everything for group in _keyframe_groups(condition)}
    keyframes = [_current_keyframes(list(group.keyframes), levels) for group in groups.values()]
    states = [
        (*(start >= level >= end for start, end in ranges), *(current[step] for current in keyframes))
        for step, level in enumerate(levels)
    ]
    starts = [0, *(step for step in range(1, len(levels)) if states[step] != states[step - 1])]
    guaranteed = max((int(frame.guarantee_steps) for group in groups.values() for frame in group.keyframes), default=1)
    return [
        Piece(start, stop, max(1, guaranteed)) for start, stop in zip(starts, [*starts[1:], len(levels)], strict=True)
    ]


def _ranges(condition: Mapping[str, Any]) -> Iterable[tuple[float, float]]:
    """From which sigma to which a condition and each of its ControlNets act."""
    yield _level(condition.get("timestep_start"), math.inf), _level(condition.get("timestep_end"), -math.inf)
    control = condition.get("control")
    while control is not None:
        bounds = getattr(control, "timestep_range", None)
        if bounds is not None:
            yield _level(bounds[0], math.inf), _level(bounds[1], -math.inf)
        control = getattr(control, "previous_controlnet", None)


def _keyframe_groups(condition: Mapping[str, Any]) -> Iterable[Any]:
    for hook in getattr(condition.get("hooks"), "hooks", None) or ():
        group = getattr(hook, "hook_keyframe", None)
        if group is not None and len(group.keyframes) > 1:
            yield group


def _current_keyframes(keyframes: Sequence[Any], levels: Sequence[float]) -> list[int]:
    """Return the index of the keyframe that acts at each level if every step computes.

    A keyframe is replaced only after its guaranteed steps.
    """

    def guaranteed(index: int) -> int:
        frame = keyframes[index]
        return 0 if _level(frame.start_t, math.inf) > levels[0] else int(frame.guarantee_steps)

    current, used, acting = 0, 0, []
    for level in levels:
        if used >= guaranteed(current):
            for index in range(current + 1, len(keyframes)):
                if _level(keyframes[index].start_t, math.inf) < level:
                    break
                current, used = index, 0
                if guaranteed(index):
                    break
        used += 1
        acting.append(current)
    return acting


def _level(value: Any, default: float) -> float:
    return default if value is None else float(value)
