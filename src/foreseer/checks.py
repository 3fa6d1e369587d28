"""Options are refused by name, with what was received and what was expected, whatever their kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from foreseer.errors import ForeseerError


def check_count(name: str, value: Any, error: type[ForeseerError], *, least: int = 0, most: int | None = None) -> None:
    """Refuse what is no whole number from ``least`` to ``most``.

    Raises:
        ForeseerError: ``error``, with the name.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limit = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise error(f"{name} is {value!r}; expected a whole number {limit}.")


def check_number(
    name: str, value: Any, error: type[ForeseerError], *, least: float = 0.0, most: float = math.inf
) -> None:
    """Refuse what is no finite number from ``least`` to ``most``.

    Raises:
        ForeseerError: ``error``, with the name.
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not least <= value <= most:
        limit = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise error(f"{name} is {value!r}; expected a finite number {limit}.")


def frozen(values: Any) -> np.ndarray:
    """``values`` as float64 that nobody can write to: themselves where they lie in a file's bytes, else a copy.

    Raises:
        TypeError, ValueError: they are no numbers, or in rows of several lengths.
    """
    array = np.asarray(values, dtype=np.float64)
    base: Any = array
    while isinstance(base, np.ndarray) and not base.flags.writeable:
        base = base.base
    if not isinstance(base, bytes):
        array = np.array(array)
        array.setflags(write=False)
    return array


def check_kind(name: str, value: Any, kind: type, error: type[ForeseerError]) -> None:
    """Refuse what is no instance of ``kind``.

    Raises:
        ForeseerError: ``error``, with the name.
    """
    if not isinstance(value, kind):
        raise error(f"{name} is a {type(value).__name__}; expected a {kind.__name__}.")
