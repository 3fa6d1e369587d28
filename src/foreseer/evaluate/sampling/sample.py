"""One run of an entry: its sample, its duration, and which steps were computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foreseer import pipelines
from foreseer.attach.run_record import RunRecord
from foreseer.calibration.record import record_run
from foreseer.evaluate.entries.base import Entry, PlainEntry
from foreseer.evaluate.sampling.call_options import CallOptions
from foreseer.evaluate.sampling.timing import LoopTiming, synchronise, time_loop


@dataclass(frozen=True)
class Sample:
    """Result of one run.

    Attributes:
        sample: picture, shape (H, W, C), or video, shape (F, H, W, C), float32 in [0, 1]; ``None`` if the run ended at
            the latent or drew sound alone.
        steps: scheduler steps taken.
        seconds: duration of the denoising loop.
        end_to_end: duration of the whole call, seconds.
        nfe: computed steps, where they are known without counting FLOPs.
        latents: samples of the scheduler by number of steps taken; the last is always present.
        record: Foreseer's record of the run, if it was attached.
    """

    sample: np.ndarray | None
    steps: int
    seconds: float
    end_to_end: float
    nfe: int | None
    latents: dict[int, np.ndarray] = field(repr=False)
    record: RunRecord | None = field(default=None, repr=False)


def sample(pipe: Any, entry: Entry, prompt: str, seed: int, call_options: CallOptions) -> Sample:
    """Draw ``prompt`` once.

    Raises:
        ForeseerError: the pipeline does not accept an option, or the entry does not support the pipeline.
    """
    with prepared(pipe, entry, prompt, seed, call_options) as run:
        return run()


@contextmanager
def prepared(
    pipe: Any, entry: Entry, prompt: str, seed: int, call_options: CallOptions
) -> Iterator[Callable[[], Sample]]:
    """Attach an entry and yield a function that draws ``prompt`` once, to be timed, counted or watched.

    One-time costs of attaching belong to no run: a policy at the last block finds and verifies the head boundary on the
    first call, so a run of one step is made first.

    Raises:
        ForeseerError: the pipeline does not accept an option, or the entry does not support the pipeline.
    """
    output_type = "np" if call_options.decode else "latent"
    options = {**call_options.options, "num_inference_steps": entry.steps, "output_type": output_type}
    arguments = call_options.arguments(pipe, prompt, options)

    def call() -> Any:
        return pipelines.run(pipe, arguments, seed)

    with entry.attached(pipe) as handle:
        if handle is not None and handle.policy.site != "output":
            with record_run(pipe, stop_after=1):
                call()

        def run() -> Sample:
            with time_loop(pipe, call_options.keep) as loop:
                synchronise()
                began = time.perf_counter()
                output = call()
                synchronise()
                end_to_end = time.perf_counter() - began
            record = handle.record if handle is not None else None
            nfe = record.nfe if record is not None else loop.steps if isinstance(entry, PlainEntry) else None
            drawn = _drawn(output) if call_options.decode else None
            return Sample(drawn, loop.steps, loop.seconds, end_to_end, nfe, _latents(loop), record)

        yield run


def _latents(loop: LoopTiming) -> dict[int, np.ndarray]:
    assert loop.latent is not None
    kept = {**loop.kept, loop.steps: loop.latent.detach()}
    return {step: latent.float().cpu().numpy() for step, latent in kept.items()}


def _drawn(output: Any) -> np.ndarray | None:
    """The first picture or video; ``None`` of sound alone, which is compared at the latent."""
    if pipelines.drawn_or_none(output) is None and pipelines.sounds(output) is not None:
        return None
    return np.asarray(pipelines.drawn(output).batch[0], dtype=np.float32)
