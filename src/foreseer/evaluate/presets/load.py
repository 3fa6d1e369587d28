"""Presets by name: read from the package's TOML files, checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from foreseer.errors import ForeseerError
from foreseer.evaluate.presets.preset import Preset, PresetError, PresetRow

PACKAGE = "foreseer.evaluate.presets"
PROMPTS = "prompts.toml"


def preset_names() -> tuple[str, ...]:
    """The presets that there are, sorted."""
    files = (file.name for file in resources.files(PACKAGE).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml") and name != PROMPTS))


def load_preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        PresetError: there is none, or its file is not one.

    >>> load_preset("spectrum-table-1-flux").steps
    50
    """
    if name not in preset_names():
        raise PresetError(f"No preset {name!r}: expected one of {', '.join(preset_names())}.")
    return make_preset(name, _read(f"{name}.toml"))


def make_preset(name: str, content: Mapping[str, Any]) -> Preset:
    """A preset from what its file holds.

    Raises:
        PresetError: something is missing, unknown or contradicts itself.
    """
    try:
        rows = tuple(PresetRow(**_tuples(row)) for row in content["rows"])
        return Preset(name, **_tuples({**content, "rows": rows}))
    except PresetError:
        raise
    except (TypeError, KeyError, ForeseerError) as error:
        raise PresetError(f"Preset {name!r} is not one: {error}") from error


def default_prompts(preset: Preset) -> tuple[str, ...]:
    """A few neutral prompts of ours for what the preset draws, for when the paper's are not at hand."""
    return tuple(_read(PROMPTS)[preset.kind])


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files(PACKAGE) / name).read_text(encoding="utf-8"))
