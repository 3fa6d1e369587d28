"""A row of small pictures of one held-out prompt: the reference, then what each plan draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from foreseer.attach.accelerate import attach
from foreseer.calibration.identity import fingerprint
from foreseer.calibration.jobs import PromptRuns, Work, content, prompt_unit
from foreseer.calibration.loop_sampler import Sampler
from foreseer.errors import in_one_line
from foreseer.files import MOST_PNG_BYTES
from foreseer.pipelines import PipelineError, call_arguments, drawn, run
from foreseer.plan import Plan
from foreseer.plan.file import encode_plan
from foreseer.scale import FolderStore, MemoryStore, Place, Task, Unit, Worker, model_of, place_of, run_units

SIDE = 128  # pixels of a picture's longer side
GAP = 2


def draw_row(
    pipe: Any,
    plans: Sequence[Plan],
    prompt: Any,
    *,
    seed: int,
    checkpoint: Path | None = None,
    workers: int | Place | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> tuple[bytes | None, str]:
    """Draw a prompt with every step computed and under each plan, side by side.

    Args:
        pipe: as of :func:`foreseer.tune`.
        plans: for the same grid.
        prompt: one that nothing was fitted on.
        seed: of the initial noise.
        checkpoint: folder where the row is kept.
        workers: where the prompt is run.
        progress: called with (forward passes done, total), without guidance.
        options: keyword arguments of the pipeline's call.

    Returns:
        A PNG file; or ``None``, and why the pipeline's pictures cannot be drawn in such a row.
    """
    if isinstance(pipe, Sampler):
        return None, "a sampling loop draws no picture"
    steps = int(plans[0].provenance.get("steps") or len(plans[0].grid))
    work = Work(progress, len(plans[0].grid) + sum(plan.nfe for plan in plans))
    store = FolderStore(checkpoint) if checkpoint is not None else MemoryStore()
    with place_of(workers).pool() as pool:
        call = {name: value for name, value in options.items() if name != "output_type"}
        runs = PromptRuns(model_of(pipe), steps, call).identified(pool, 1)
        identity = {**runs.identity, "plans": fingerprint([encode_plan(plan) for plan in plans])}
        unit = prompt_unit("row", 0, prompt, seed, identity)
        (result,) = run_units(pool, DrawRow(runs, tuple(plans)), [unit], store=store)
    work.reach(work.total)
    answer = content(result)
    return (answer[1:], "") if answer[:1] == DRAWN else (None, answer[1:].decode())


DRAWN, FAILED = b"+", b"-"


@dataclass(frozen=True)
class DrawRow(Task):
    """Draw the row; the result is ``DRAWN`` and a PNG file, or ``FAILED`` and the reason."""

    runs: PromptRuns
    plans: tuple[Plan, ...]

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One run per picture. A failure ends no tuning, which has taken hours by then."""
        prompt, seed = unit.payload
        pipe, options = self.runs.on(worker)
        call = {**options, "num_inference_steps": self.runs.steps}
        try:
            pictures = [_picture(run(pipe, call_arguments(pipe, prompt, call), seed))]
            for plan in self.plans:
                with attach(pipe, plan, on_other_guidance="ignore"):
                    pictures.append(_picture(run(pipe, call_arguments(pipe, prompt, call), seed)))
            return DRAWN + _row(pictures)
        except Exception as error:  # noqa: BLE001 - a decoder may lack memory that the latents had
            return FAILED + in_one_line(error).encode()


def _picture(output: Any) -> Any:
    """The first picture, or the first frame of a video, at most ``SIDE`` pixels."""
    from PIL import Image

    batch, is_video = drawn(output)
    first = batch[0][0] if is_video else batch[0]
    if not isinstance(first, Image.Image):
        if getattr(first, "ndim", 0) != 3 or first.shape[2] != 3:
            raise PipelineError(f"the pipeline returns {type(first).__name__}, not pictures")
        first = Image.fromarray(np.round(255 * np.clip(np.nan_to_num(first), 0, 1)).astype(np.uint8))
    small = first.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return small


def _row(pictures: Sequence[Any]) -> bytes:
    """A PNG file of pictures side by side, of fewer pixels where it would be too large for a profile."""
    from PIL import Image

    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), "white")
    for place, picture in enumerate(pictures):
        row.paste(picture, (place * (width + GAP), 0))
    while True:
        file = BytesIO()
        row.save(file, "PNG", optimize=True)
        if len(file.getvalue()) <= MOST_PNG_BYTES:
            return file.getvalue()
        row = row.resize((row.width // 2, row.height // 2))
