"""Identity of a scheduler: its class, and a hash of its configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def scheduler_identity(scheduler: Any) -> dict[str, str]:
    """Return the class and the configuration's hash, by the names that a kernel's provenance uses.

    >>> scheduler_identity(object())["scheduler"]
    'object'
    """
    config = getattr(scheduler, "config", None)
    entries = dict(config) if isinstance(config, Mapping) else {}
    public = {name: value for name, value in entries.items() if not name.startswith("_")}
    text = json.dumps(public, sort_keys=True, default=repr)
    digest = hashlib.sha256(repr(text).encode()).hexdigest()[:16]
    return {"scheduler": type(scheduler).__name__, "scheduler_config": digest}


def how_schedulers_differ(planned: Mapping[str, str], scheduler: Any) -> str:
    """Return how a scheduler differs from the one that a plan's provenance names; empty if it does not."""
    identity = scheduler_identity(scheduler)
    name = planned.get("scheduler")
    if name is None:
        return ""
    if name != identity["scheduler"]:
        return f"{name}, and this run uses {identity['scheduler']}"
    if planned.get("scheduler_config", identity["scheduler_config"]) != identity["scheduler_config"]:
        return f"another configuration of {name} than this run's"
    return ""
