"""The same prompts and seeds under several methods, interleaved, against the reference."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foreseer.evaluate.contender import Contender, Unaccelerated
from foreseer.evaluate.measures import psnr, relative_error, ssim
from foreseer.evaluate.sample import Asked, sample


@dataclass
class Result:
    """What one contender gave, a list entry a prompt.

    Attributes:
        contender: the way it was sampled.
        nfe: network evaluations of a run.
        seconds: duration of the denoising loops.
        images: shape (H, W, 3), float, in [0, 1].
        psnr: dB against the reference, true.
        ssim: against the reference.
        latent_error: relative error of the final latent.
        failed_open: steps computed against the plan.
    """

    contender: Contender
    nfe: int = 0
    seconds: list[float] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    latent_error: list[float] = field(default_factory=list)
    failed_open: int = 0
    _latents: list[np.ndarray] = field(default_factory=list, repr=False)


@dataclass
class Comparison:
    """The reference and the contenders' results on the same prompts and seeds."""

    prompts: list[str]
    seeds: list[int]
    steps: int
    reference: Result
    results: list[Result]

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a contender, the reference first: medians of the times, means of the measures.

        ``speedup`` is the median over prompts of the reference's time over the contender's on the same prompt, and
        ``realised`` that speedup over T / NFE.
        """
        rows = []
        for result in (self.reference, *self.results):
            ratios = [mine / theirs for mine, theirs in zip(self.reference.seconds, result.seconds, strict=True)]
            speedup = statistics.median(ratios)
            rows.append(
                {
                    "method": result.contender.name,
                    "title": result.contender.title,
                    "steps": result.contender.steps,
                    "nfe": result.nfe,
                    "seconds": statistics.median(result.seconds),
                    "speedup": speedup,
                    "realised": speedup / (self.steps / result.nfe),
                    "psnr": _mean(result.psnr),
                    "ssim": _mean(result.ssim),
                    "latent_error": _mean(result.latent_error),
                    "failed_open": result.failed_open,
                }
            )
        return rows


def compare(
    pipe: Any,
    prompts: Sequence[str],
    contenders: Sequence[Contender],
    *,
    steps: int = 50,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda words: None,
) -> Comparison:
    """Sample every prompt with every step computed and under each contender, all on the same seeds.

    Runs are interleaved prompt by prompt, in an order that turns, after one warm-up run.

    Args:
        pipe: a diffusers image pipeline, not attached.
        prompts: at least one.
        contenders: what to compare.
        steps: of the reference.
        seed: of the first prompt; the next has the next.
        options: keyword arguments for the pipeline's call (height, guidance, ...).
        progress: called with a few words after each run.
    """
    reference = Unaccelerated("reference", "Every step", steps)
    order = [reference, *contenders]
    results = {one.name: Result(one) for one in order}
    seeds = [seed + index for index in range(len(prompts))]
    asked = Asked(options or {})
    sample(pipe, Unaccelerated("warm-up", "", 2), prompts[0], seed, asked)
    for index, (prompt, its_seed) in enumerate(zip(prompts, seeds, strict=True)):
        for turn in range(len(order)):
            one = order[(turn + index) % len(order)]
            _add_run(pipe, results[one.name], prompt, its_seed, asked)
            progress(one.title)
    truth = results["reference"]
    for result in results.values():
        for image, true_image in zip(result.images, truth.images, strict=True):
            result.psnr.append(psnr(image, true_image))
            result.ssim.append(ssim(image, true_image))
        for latent, true_latent in zip(result._latents, truth._latents, strict=True):
            result.latent_error.append(relative_error(latent, true_latent))
    return Comparison(list(prompts), seeds, steps, truth, [results[one.name] for one in contenders])


def _add_run(pipe: Any, result: Result, prompt: str, seed: int, asked: Asked) -> None:
    run = sample(pipe, result.contender, prompt, seed, asked)
    assert run.sample is not None
    result.images.append(run.sample)
    result._latents.append(run.latents[run.steps])
    result.seconds.append(run.seconds)
    result.nfe = run.nfe or run.steps
    result.failed_open += len(run.record.failed_open) if run.record is not None else 0


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
