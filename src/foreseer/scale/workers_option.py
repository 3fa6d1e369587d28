"""What ``workers=`` may be, here and in every function that takes it."""

from __future__ import annotations

from typing import Any

from foreseer.checks import check_count
from foreseer.errors import ScaleError
from foreseer.scale.here import Here
from foreseer.scale.place import Place
from foreseer.scale.processes import Processes


def place_of(workers: Any) -> Place:
    """Return the place for ``workers=``: ``None`` for this process, a number of processes, or a place.

    Raises:
        ScaleError: it is something else.
    """
    if workers is None:
        return Here()
    if isinstance(workers, Place):
        return workers
    check_count("workers", workers, ScaleError, least=1)
    return Processes(workers)
