"""Checks of options: each error names the option, the value received and what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from foreseer.errors import ForeseerError

MOST_SHOWN = 80  # characters of a value in a message


def check_count(name: str, value: Any, error: type[ForeseerError], *, least: int = 0, most: int | None = None) -> None:
    """Raise unless ``value`` is an integer in [least, most].

    Raises:
        ForeseerError: of class ``error``; the message names the option.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limit = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise error(f"{name} is {value!r}; expected a whole number {limit}.")


def check_number(
    name: str, value: Any, error: type[ForeseerError], *, least: float = 0.0, most: float = math.inf
) -> None:
    """Raise unless ``value`` is a finite number in [least, most].

    Raises:
        ForeseerError: of class ``error``; the message names the option.
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not least <= value <= most:
        limit = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise error(f"{name} is {value!r}; expected a finite number {limit}.")


def check_flags(error: type[ForeseerError], **flags: Any) -> None:
    """Raise unless each flag is True or False: text such as "no" would count as true.

    Raises:
        ForeseerError: of class ``error``; the message names the flag.

    >>> check_flags(ForeseerError, strict="no")
    Traceback (most recent call last):
    foreseer.errors.ForeseerError: strict is 'no'; expected True or False.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise error(f"{name} is {_short(value)}; expected True or False.")


def check_texts(name: str, texts: Any, error: type[ForeseerError]) -> list[str]:
    """Return the prompts ``texts`` as a list; they must be a sequence of strings with at least one.

    Raises:
        ForeseerError: of class ``error``; the message names the option.
    """
    checked = check_list(name, texts, error, "a list of a few prompts (strings)")
    for index, text in enumerate(checked):
        if not isinstance(text, str):
            raise error(f"{name}[{index}] is {_short(text)}; expected a string.")
    return checked


def check_list(name: str, values: Any, error: type[ForeseerError], expected: str) -> list[Any]:
    """Return ``values`` as a list; they must be a sequence with at least one element.

    Raises:
        ForeseerError: of class ``error``; the message names the option and what was ``expected``.
    """
    if not isinstance(values, Sequence) or isinstance(values, str | bytes) or not values:
        raise error(f"{name} is {_short(values)}; expected {expected}.")
    return list(values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def frozen(values: Any) -> np.ndarray:
    """Return ``values`` as a read-only float64 array: without a copy if they are views of a file's bytes.

    Raises:
        TypeError, ValueError: the values are not numbers, or rows differ in length.
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
    """Raise unless ``value`` is an instance of ``kind``.

    Raises:
        ForeseerError: of class ``error``; the message names the option.
    """
    if not isinstance(value, kind):
        raise error(f"{name} is a {type(value).__name__}; expected a {kind.__name__}.")


def check_callable(name: str, value: Any, error: type[ForeseerError]) -> None:
    """Raise unless ``value`` can be called.

    Raises:
        ForeseerError: of class ``error``; the message names the option.
    """
    if not callable(value):
        raise error(f"{name} is a {type(value).__name__}; expected a function.")


def check_provenance(provenance: Any, error: type[ForeseerError]) -> dict[str, str]:
    """Return a copy of ``provenance``, which files keep as strings by name.

    Raises:
        ForeseerError: of class ``error``; it is not a mapping of strings to strings.
    """
    entries = provenance.items() if isinstance(provenance, Mapping) else [(provenance, None)]
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in entries):
        raise error("Provenance holds text only: every key and value must be a string.")
    return dict(provenance)


def one_target(
    error: Callable[[str], Exception], targets: Mapping[str, Any], *, required: bool = False
) -> dict[str, Any]:
    """Return the target that is not ``None``, by name; empty if none is.

    Args:
        error: class of the errors raised.
        targets: all targets by name; ``None`` for those left out.
        required: whether one must be there.

    Raises:
        Exception: of class ``error``; there are several, or none although one is required.

    >>> one_target(ValueError, {"nfe": None, "speedup": 3})
    {'speedup': 3}
    """
    received = {name: value for name, value in targets.items() if value is not None}
    if len(received) > 1 or (required and not received):
        *others, last = targets
        names = f"{', '.join(others)} {'and' if required else 'or'} {last}"
        count = "exactly one of" if required else "one of"
        raise error(f"Give {count} {names}; received {' and '.join(received) or 'none'}.")
    return received


def check_target(target: Mapping[str, Any], error: type[ForeseerError]) -> None:
    """Raise unless each budget in ``target`` is in its range.

    Raises:
        ForeseerError: of class ``error``; the message names the option.
    """
    for name, value in target.items():
        if name in ("nfe", "forward_passes"):
            check_count(name, value, error, least=1)
        elif name == "speedup":
            check_number(name, value, error, least=1.0)
        elif name == "max_error":
            check_number(name, value, error)
            if value == 0:
                raise error("max_error is 0; expected a positive number, or quality='exact' for every step.")


def unknown_name(kind: str, name: str, expected: Iterable[str]) -> str:
    """Write the message for an unknown name: the nearest expected name, if any is near, and all of them.

    >>> unknown_name("method", "tailorseer", ["reuse", "taylorseer"])
    "Unknown method 'tailorseer': did you mean 'taylorseer'? Expected one of reuse, taylorseer."
    """
    names = list(expected)
    nearest = nearest_name(name, names)
    suggestion = f" did you mean {nearest!r}? Expected" if nearest else " expected"
    return f"Unknown {kind} {name!r}:{suggestion} one of {', '.join(names)}."


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the name in ``names`` that was most likely meant by ``name``; ``None`` if none is near.

    >>> nearest_name("tru_cfg", ["guidance_scale", "true_cfg"])
    'true_cfg'
    """
    from difflib import get_close_matches

    return next(iter(get_close_matches(str(name), list(names), n=1)), None)
