"""Read presets by name from the package's TOML files, and check them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from foreseer.checks import unknown_name
from foreseer.errors import ForeseerError
from foreseer.evaluate.presets.preset import Preset, PresetError, PresetRow

PACKAGE = "foreseer.evaluate.presets"
PROMPTS = "prompts.toml"


def preset_names() -> tuple[str, ...]:
    """List the names of all presets, sorted."""
    files = (file.name for file in resources.files(PACKAGE).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml") and name != PROMPTS))


def load_preset(name: str) -> Preset:
    """Read the preset called ``name``.

    Raises:
        PresetError: the name is unknown, or the file is not a preset.

    >>> load_preset("spectrum-table-1-flux").steps
    50
    """
    if name not in preset_names():
        raise PresetError(unknown_name("preset", name, preset_names()))
    return make_preset(name, _read(f"{name}.toml"))


def make_preset(name: str, content: Mapping[str, Any]) -> Preset:
    """Make a preset from the content of its file.

    Raises:
        PresetError: an entry is missing, unknown or contradicts another.
    """
    try:
        rows = tuple(PresetRow(**_tuples(row)) for row in content["rows"])
        return Preset(name, **_tuples({**content, "rows": rows}))
    except PresetError:
        raise
    except (TypeError, KeyError, ForeseerError) as error:
        raise PresetError(f"The file of preset {name!r} is not a preset: {error}.") from error


def default_prompts(preset: Preset) -> tuple[str, ...]:
    """Return a few neutral prompts that suit the preset, to use without the paper's prompts."""
    return tuple(_read(PROMPTS)[preset.kind])


def list_presets() -> list[dict[str, Any]]:
    """Describe every preset by plain values."""
    presets = [load_preset(name) for name in preset_names()]
    return [
        {
            "name": preset.name,
            "title": preset.title,
            "model": preset.model,
            "steps": preset.steps,
            "random_weights": preset.random_weights,
            "rows": [row.name for row in preset.rows],
            "source": preset.source,
        }
        for preset in presets
    ]


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files(PACKAGE) / name).read_text(encoding="utf-8"))
