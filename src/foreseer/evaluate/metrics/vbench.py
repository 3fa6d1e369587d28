"""VBench's dimensions of video quality (arXiv 2311.17982), in a separate Python.

The package needs versions of transformers and NumPy that diffusers does not support. It therefore runs in another
environment (``pip install vbench``); the variable ``FORESEER_VBENCH_PYTHON`` names its Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from foreseer.evaluate.metrics.base import MeasureContext, MissingMeasureError, Quality, Scorer, StoredSample

VARIABLE = "FORESEER_VBENCH_PYTHON"
FRAMES_PER_SECOND = 16
# The dimensions that need only a video and its prompt.
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
    """One dimension of VBench.

    Attributes:
        dimension: the package's name of it.
    """

    dimension: str
    package = "vbench"
    videos_only = True

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Key, such as ``vbench_dynamic_degree``."""
        return f"vbench_{self.dimension}"

    @property
    def title(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Title in tables."""
        return f"VBench {DIMENSIONS[self.dimension].lower()}"

    def _load(self, context: MeasureContext) -> Scorer:
        python = os.environ.get(VARIABLE)
        if not python:
            raise MissingMeasureError(
                f"needs a separate environment (pip install vbench): set {VARIABLE} to its Python"
            )
        done = subprocess.run([python, "-c", "import vbench"], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise MissingMeasureError(f"{python} cannot import vbench: {_last_line(done.stderr)}")

        def score(sample: StoredSample) -> float:
            with tempfile.TemporaryDirectory() as folder:
                video = write_video(sample, Path(folder))
                arguments = (str(video), sample.prompt, self.dimension, context.device, folder)
                done = subprocess.run(  # noqa: S603
                    [python, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
                )
            if done.returncode:
                raise MissingMeasureError(f"vbench fails: {_last_line(done.stderr)}")
            return float(json.loads(done.stdout.splitlines()[-1]))

        return score


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def write_video(sample: StoredSample, folder: Path) -> Path:
    """Write the frames as a video file that VBench reads."""
    from diffusers.utils import export_to_video

    path = folder / "video.mp4"
    export_to_video(list(sample.frames.astype("float32") / 255), str(path), fps=FRAMES_PER_SECOND, quality=10)
    return path
