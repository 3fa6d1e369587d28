"""The noise level of a call, found among the levels of a run."""

from __future__ import annotations

from collections.abc import Sequence

SAME_LEVEL = 1e-4  # relative: a call nearer to a level than this is a call at that level


def step_at(levels: Sequence[float], level: float, expected: int = 0) -> int | None:
    """Index of the level at which a call is made; ``None`` for a call at no level of the run.

    Args:
        levels: noise levels (sigmas) of the run, in any order.
        level: of the call.
        expected: the index that is likely; tried before the search.

    >>> step_at([4.0, 2.0, 1.0], 2.00001), step_at([4.0, 2.0, 1.0], 1.5)
    (1, None)
    """
    if 0 <= expected < len(levels) and levels[expected] == level > 0:
        return expected
    step = min(range(len(levels)), key=lambda index: abs(levels[index] - level), default=None)
    return None if step is None or level <= 0 or abs(levels[step] - level) > SAME_LEVEL * level else step
