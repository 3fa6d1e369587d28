"""Presets: tables and figures of papers, one TOML file each with settings and published figures.

``preset`` is their form, ``load`` reads the files; a new preset is one new file.
"""

from foreseer.evaluate.presets.load import default_prompts, list_presets, load_preset, preset_names
from foreseer.evaluate.presets.preset import Preset, PresetError, PresetRow, UnavailableEntry

PRESETS: tuple[str, ...] = preset_names()

__all__ = [
    "PRESETS",
    "Preset",
    "PresetError",
    "PresetRow",
    "UnavailableEntry",
    "default_prompts",
    "list_presets",
    "load_preset",
]
