"""Say what takes long, while it takes long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 3.0


@contextmanager
def said_if_slow(what: str) -> Iterator[None]:
    """Log ``what`` as a warning of the logger "foreseer" if the block takes longer than three seconds.

    >>> with said_if_slow("Searching the steps"):
    ...     pass
    """
    timer = threading.Timer(SECONDS, logging.getLogger("foreseer").warning, (what,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
