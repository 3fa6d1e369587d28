"""Prompts for trial runs that set an entry up: the model's own where it has some, else neutral ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COUNT = 4
NEUTRAL = ("a lighthouse at dusk", "a bowl of fruit on a wooden table", "a red tram in a narrow street", "two cats")


def trial_prompts(pipe: Any, examples: Sequence[str] = (), measured: Sequence[str] = ()) -> list[str]:
    """Choose up to ``COUNT`` prompts, those that the bench does not measure first.

    Args:
        pipe: a diffusers pipeline; one that draws classes names them in ``labels``.
        examples: the model's example prompts.
        measured: the prompts of the bench.

    >>> trial_prompts(None, examples=["a", "b", "c"], measured=["a", "b"])
    ['c', 'a', 'b']
    """
    own = list(examples) or list(getattr(pipe, "labels", None) or ()) or list(NEUTRAL)
    return sorted(own, key=lambda prompt: prompt in measured)[:COUNT]
