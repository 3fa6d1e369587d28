"""Identity of a scheduler: its class, and a hash of its configuration."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def scheduler_identity(scheduler: Any) -> dict[str, str]:
    """Return the class and the configuration's hash, by the names that a kernel's provenance uses.

    The hash counts the entries that the class takes and that differ from its defaults: ``from_config`` keeps entries of
    the scheduler before, and other versions of diffusers have other options.

    >>> scheduler_identity(object())["scheduler"]
    'object'
    """
    return {"scheduler": type(scheduler).__name__, "scheduler_config": _digest(_settings(scheduler))}


def how_schedulers_differ(planned: Mapping[str, str], scheduler: Any) -> str:
    """Return how a scheduler differs from the one that a plan's provenance names; empty if it does not."""
    identity = scheduler_identity(scheduler)
    name = planned.get("scheduler")
    if name is None:
        return ""
    if name != identity["scheduler"]:
        return f"{name}, and this run uses {identity['scheduler']}"
    of_all = _digest(_entries(scheduler))  # in files written before defaults were left out
    if planned.get("scheduler_config", of_all) not in (identity["scheduler_config"], of_all):
        return f"another configuration of {name} than this run's"
    return ""


def _entries(scheduler: Any) -> dict[str, Any]:
    """All public entries of the configuration."""
    config = getattr(scheduler, "config", None)
    entries = dict(config) if isinstance(config, Mapping) else {}
    return {name: value for name, value in entries.items() if not name.startswith("_")}


def _settings(scheduler: Any) -> dict[str, Any]:
    """Entries that the class takes and that differ from its defaults; all if it takes any."""
    entries, parameters = _entries(scheduler), inspect.signature(type(scheduler).__init__).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return entries
    taken = {name: value for name, value in entries.items() if name in parameters}
    return {name: value for name, value in taken.items() if _text(value) != _text(parameters[name].default)}


def _digest(entries: Mapping[str, Any]) -> str:
    return hashlib.sha256(repr(_text(entries)).encode()).hexdigest()[:16]


def _text(value: Any) -> str:
    """A value as in a configuration file."""
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """An array as a list, and its ``repr`` of anything else that JSON does not hold."""
    return value.tolist() if isinstance(value, np.ndarray) else repr(value)
