"""One run of a contender: what it drew, how long it took, what was computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from foreseer import pipelines
from foreseer.attach.run_record import RunRecord
from foreseer.calibration.record import record_run
from foreseer.evaluate.contender import Contender, Unaccelerated
from foreseer.evaluate.loop import Loop, watch_loop
from foreseer.pipelines import call_arguments

Arguments = Callable[[Any, str, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Sampled:
    """What one run gave.

    Attributes:
        sample: a picture, shape (H, W, C), or a video, shape (F, H, W, C), float32 in [0, 1]; ``None`` where the run
            ended at the latent.
        latents: samples of the scheduler by the number of steps taken; the last is always there.
        steps: scheduler steps taken.
        seconds: duration of the denoising loop.
        end_to_end: duration of the whole call, seconds.
        nfe: network evaluations, where they are known without counting FLOPs.
        record: what Foreseer did, where it was attached.
    """

    sample: np.ndarray | None
    steps: int
    seconds: float
    end_to_end: float
    nfe: int | None
    latents: dict[int, np.ndarray] = field(repr=False)
    record: RunRecord | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Asked:
    """How every run of a comparison is called.

    Attributes:
        options: keyword arguments for the pipeline's call (height, guidance, ...).
        decode: whether pictures are wanted; without, runs end at the latent.
        keep: after how many scheduler steps samples are kept, the last beside.
        arguments: from pipeline, prompt and options to the keyword arguments of a call.
    """

    options: dict[str, Any] = field(default_factory=dict)
    decode: bool = True
    keep: Container[int] = ()
    arguments: Arguments = call_arguments


def sample(pipe: Any, contender: Contender, prompt: str, seed: int, asked: Asked) -> Sampled:
    """Draw ``prompt`` once.

    Raises:
        ForeseerError: the pipeline does not take an option, or the contender does not serve it.
    """
    with prepared(pipe, contender, prompt, seed, asked) as run:
        return run()


@contextmanager
def prepared(pipe: Any, contender: Contender, prompt: str, seed: int, asked: Asked) -> Iterator[Callable[[], Sampled]]:
    """Attach a contender; gives what draws ``prompt`` once, to be timed, counted or watched.

    What attaching costs once belongs to no run: a policy at the last block finds and proves its seam on the first call,
    so a run of one step comes before.

    Raises:
        ForeseerError: the pipeline does not take an option, or the contender does not serve it.
    """
    output_type = "np" if asked.decode else "latent"
    given = {**asked.options, "num_inference_steps": contender.steps, "output_type": output_type}
    arguments = asked.arguments(pipe, prompt, given)

    def call() -> Any:
        return pipelines.run(pipe, arguments, seed)

    with contender.attached(pipe) as handle:
        if handle is not None and handle.policy.site != "output":
            with record_run(pipe, stop_after=1):
                call()

        def run() -> Sampled:
            with watch_loop(pipe, asked.keep) as loop:
                synchronise()
                began = time.perf_counter()
                output = call()
                synchronise()
                end_to_end = time.perf_counter() - began
            record = handle.record if handle is not None else None
            nfe = record.nfe if record is not None else loop.steps if isinstance(contender, Unaccelerated) else None
            drawn = _drawn(output) if asked.decode else None
            return Sampled(drawn, loop.steps, loop.seconds, end_to_end, nfe, _latents(loop), record)

        yield run


def synchronise() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _latents(loop: Loop) -> dict[int, np.ndarray]:
    assert loop.latent is not None
    kept = {**loop.kept, loop.steps: loop.latent.detach()}
    return {step: latent.float().cpu().numpy() for step, latent in kept.items()}


def _drawn(output: Any) -> np.ndarray:
    return np.asarray(output.images[0] if hasattr(output, "images") else output.frames[0], dtype=np.float32)
