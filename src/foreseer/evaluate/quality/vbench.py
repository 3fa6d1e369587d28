"""VBench's dimensions of videos (arXiv 2311.17982) by its authors' package, in a Python of its own.

The package wants versions of transformers and NumPy that diffusers does not run with. So it runs in another
environment (``pip install vbench``), whose Python is named by the variable ``FORESEER_VBENCH_PYTHON``.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from foreseer.evaluate.quality.base import Drawn, MissingMeasureError, Quality, Scorer, Setting

VARIABLE = "FORESEER_VBENCH_PYTHON"
FRAMES_PER_SECOND = 16
# Those that need nothing but a video and its prompt.
DIMENSIONS = {
    "subject_consistency": "Subject consistency",
    "background_consistency": "Background consistency",
    "temporal_flickering": "Temporal flickering",
    "motion_smoothness": "Motion smoothness",
    "dynamic_degree": "Dynamic degree",
    "aesthetic_quality": "Aesthetic quality",
    "imaging_quality": "Imaging quality",
    "overall_consistency": "Overall consistency",
}
PROGRAM = """
import contextlib, json, sys
video, prompt, dimension, device, folder = sys.argv[1:]
with contextlib.redirect_stdout(sys.stderr):
    import os, torch, vbench
    listing = os.path.join(os.path.dirname(vbench.__file__), "VBench_full_info.json")
    bench = vbench.VBench(torch.device(device), listing, folder)
    bench.evaluate(videos_path=video, name="one", prompt_list=[prompt], dimension_list=[dimension], mode="custom_input")
    with open(os.path.join(folder, "one_eval_results.json")) as file:
        score = json.load(file)[dimension][0]
print(json.dumps(float(score)))
"""


@dataclass(frozen=True)
class VBench(Quality):
    """One dimension.

    Attributes:
        dimension: as the package calls it.
    """

    dimension: str
    package = "vbench"
    videos_only = True

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Key of the column."""
        return f"vbench_{self.dimension}"

    @property
    def title(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What tables print."""
        return f"VBench {DIMENSIONS[self.dimension].lower()}"

    def _load(self, setting: Setting) -> Scorer:
        python = os.environ.get(VARIABLE)
        if not python:
            raise MissingMeasureError(f"needs an environment of its own (pip install vbench): set {VARIABLE}")
        done = subprocess.run([python, "-c", "import vbench"], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise MissingMeasureError(f"{python} cannot import vbench: {_last_line(done.stderr)}")

        def score(drawn: Drawn) -> float:
            with tempfile.TemporaryDirectory() as folder:
                video = write_video(drawn, Path(folder))
                arguments = (str(video), drawn.prompt, self.dimension, setting.device, folder)
                done = subprocess.run(  # noqa: S603
                    [python, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
                )
            if done.returncode:
                raise MissingMeasureError(f"vbench fails: {_last_line(done.stderr)}")
            return float(json.loads(done.stdout.splitlines()[-1]))

        return score


def _last_line(words: str) -> str:
    return (words.strip().splitlines() or ["no reason given"])[-1]


def write_video(drawn: Drawn, folder: Path) -> Path:
    """The frames as a video file that VBench reads."""
    from diffusers.utils import export_to_video

    path = folder / "video.mp4"
    export_to_video(list(drawn.frames.astype("float32") / 255), str(path), fps=FRAMES_PER_SECOND, quality=10)
    return path
