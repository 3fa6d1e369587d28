"""The papers' tables and figures as presets: settings and published figures, one file each."""

from foreseer.evaluate.presets.load import default_prompts, load_preset, preset_names
from foreseer.evaluate.presets.preset import Absent, Preset, PresetError, PresetRow

PRESETS: tuple[str, ...] = preset_names()

__all__ = ["PRESETS", "Absent", "Preset", "PresetError", "PresetRow", "default_prompts", "load_preset"]
