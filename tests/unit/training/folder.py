"""Where the trained video example is."""

from pathlib import Path

FOLDER = Path(__file__).parents[3] / "examples" / "emoji-video"
