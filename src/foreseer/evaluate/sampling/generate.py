"""Draw and write pictures with any diffusers pipeline under a policy, for ``foreseer generate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreseer import pipelines
from foreseer.attach.accelerate import attach
from foreseer.attach.run_record import RunRecord
from foreseer.evaluate.sampling.picture_files import write_result
from foreseer.evaluate.sampling.timing import time_loop
from foreseer.pipelines import call_arguments, load_pipeline, split_sampling
from foreseer.plan import Policy

DEFAULT_STEPS = 50


@dataclass(frozen=True)
class PictureRequest:
    """Pictures to draw.

    Attributes:
        model: bundled name, folder or hub id.
        prompts: one picture each.
        steps: steps of the sampler; by default the model folder's, else 50.
        seed: seed of the first picture; each next picture adds one.
        out: file to write; numbered if there are several pictures.
        options: more keyword arguments for the pipeline, pictures and videos as paths.
        dtype: dtype of the weights.
        device: device to run on.
        fallback: whether the output is forecast where the policy's site is not available.
        force: whether rows that were learned on another network or with other guidance may be used.
    """

    model: str
    prompts: list[str]
    steps: int | None
    seed: int
    out: Path
    options: dict[str, Any]
    dtype: str | None = None
    device: str | None = None
    fallback: bool = False
    force: bool = False


@dataclass(frozen=True)
class WrittenPicture:
    """A picture that was written.

    Attributes:
        path: the file.
        prompt: its prompt.
        seed: seed of its initial noise.
        steps: steps that the run took; fewer than asked for in image to image.
        seconds: duration of the denoising loop.
        record: Foreseer's record of the run, if it was attached.
    """

    path: Path
    prompt: str
    seed: int
    steps: int
    seconds: float
    record: RunRecord | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dictionaries."""
        return {
            "path": str(self.path),
            "prompt": self.prompt,
            "seed": self.seed,
            "steps": self.steps,
            "seconds": self.seconds,
            "record": self.record.to_dict() if self.record is not None else None,
        }

    def summary(self) -> str:
        """Return one line to print."""
        nfe = self.record.nfe if self.record is not None else self.steps
        line = f"{self.path}: {nfe} of {self.steps} steps computed, {self.seconds:.2f} s denoising"
        if self.record is not None and self.record.expected_error is not None:
            line += f", {self.record.expected_error:.4f} expected error of the final latent"
        if self.record is not None and self.record.failed_open:
            first = self.record.failed_open[0]
            line += f"; {len(self.record.failed_open)} against the plan ({first.reason})"
        return line


def choices_of(drawn: Any) -> dict[str, Any]:
    """Return the arguments of :func:`attach` that ``fallback`` and ``force`` of a request decide."""
    return {
        "fallback": drawn.fallback,
        "allow_other_network": drawn.force,
        "on_other_guidance": "warn" if drawn.force else "refuse",
    }


def generate_all(
    request: PictureRequest, policy_for: Callable[[int], tuple[Policy | None, int]], quiet: bool = False
) -> Iterator[WrittenPicture]:
    """Draw and write one picture per prompt, yielding each.

    Args:
        request: the pictures to draw.
        policy_for: function from the sampler's steps to the policy (or ``None``) and the steps to take under it.
        quiet: whether to hide the progress bar.

    Raises:
        ForeseerError: the pipeline, an option or the policy cannot be used.
    """
    pipe, sampling = load_pipeline(request.model, request.dtype, request.device)
    pipe.set_progress_bar_config(disable=quiet or None)
    _, defaults = split_sampling(sampling)
    policy, steps = policy_for(request.steps or int(defaults.get("num_inference_steps", DEFAULT_STEPS)))
    options = {**defaults, **pipelines.with_pictures(pipe, request.options), "num_inference_steps": steps}
    attached = nullcontext() if policy is None else attach(pipe, policy, **choices_of(request))
    with attached as handle:
        for index, prompt in enumerate(request.prompts):
            arguments = call_arguments(pipe, prompt, options)
            seed = request.seed + index
            with time_loop(pipe) as loop:
                output = pipelines.run(pipe, arguments, seed)
            path = request.out
            if len(request.prompts) > 1:
                path = path.with_name(f"{path.stem}-{index}{path.suffix}")
            path = write_result(pipe, output, path)
            record = handle.record if handle is not None else None
            yield WrittenPicture(path, prompt, seed, loop.steps or steps, loop.seconds, record)
