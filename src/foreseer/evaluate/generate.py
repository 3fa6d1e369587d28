"""`foreseer generate`: pictures from any diffusers pipeline, under a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from foreseer import pipelines
from foreseer.attach.accelerate import accelerate
from foreseer.attach.run_record import RunRecord
from foreseer.evaluate.loop import watch_loop
from foreseer.evaluate.pixels import FRAME_MILLISECONDS, as_bytes
from foreseer.files.writing import write_encoded
from foreseer.pipelines import PipelineError, call_arguments, load_pipeline, split_sampling
from foreseer.plan import Policy

DEFAULT_STEPS = 50


@dataclass(frozen=True)
class Request:
    """What to draw.

    Attributes:
        model: a bundled name, a folder or a hub id.
        prompts: one picture each.
        steps: of the sampler; by default what the model's folder says, else 50.
        seed: of the first picture; the next has the next.
        out: file to write; numbered where there are several pictures.
        options: more keyword arguments for the pipeline, pictures as their paths; ``None``
            values are left to the model's folder.
        dtype: of the weights.
        device: to run on.
    """

    model: str
    prompts: list[str]
    steps: int | None
    seed: int
    out: Path
    options: dict[str, Any]
    dtype: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Made:
    """A picture that was written; ``steps`` are those that its run took: image to image begins later."""

    path: Path
    prompt: str
    seed: int
    steps: int
    seconds: float
    record: RunRecord | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dictionaries."""
        return {
            "path": str(self.path),
            "prompt": self.prompt,
            "seed": self.seed,
            "steps": self.steps,
            "seconds": self.seconds,
            "record": self.record.to_dict() if self.record is not None else None,
        }

    def words(self) -> str:
        """One line to print."""
        nfe = self.record.nfe if self.record is not None else self.steps
        line = f"{self.path}: {nfe} of {self.steps} steps computed, {self.seconds:.2f} s denoising"
        if self.record is not None and self.record.failed_open:
            first = self.record.failed_open[0]
            line += f"; {len(self.record.failed_open)} against the plan ({first.reason})"
        return line


def generate_all(
    request: Request, policy_for: Callable[[int], tuple[Policy | None, int]], quiet: bool = False
) -> Iterator[Made]:
    """Draw, write and yield one picture a prompt.

    Args:
        request: what to draw.
        policy_for: from the sampler's steps to the policy (or ``None``) and the steps to take under it.
        quiet: no progress bar.

    Raises:
        ForeseerError: the pipeline, an option or the policy is not to be had.
    """
    pipe, sampling = load_pipeline(request.model, request.dtype, request.device)
    pipe.set_progress_bar_config(disable=quiet or None)
    _, defaults = split_sampling(sampling)
    policy, steps = policy_for(request.steps or int(defaults.get("num_inference_steps", DEFAULT_STEPS)))
    given = {name: value for name, value in request.options.items() if value is not None}
    options = {**defaults, **pipelines.with_pictures(pipe, given), "num_inference_steps": steps}
    with accelerate(pipe, policy) if policy is not None else nullcontext() as handle:
        for index, prompt in enumerate(request.prompts):
            arguments = call_arguments(pipe, prompt, options)
            seed = request.seed + index
            with watch_loop(pipe) as loop:
                output = pipelines.run(pipe, arguments, seed)
            path = request.out
            if len(request.prompts) > 1:
                path = path.with_name(f"{path.stem}-{index}{path.suffix}")
            _write(output, path)
            yield Made(
                path, prompt, seed, loop.steps or steps, loop.seconds, handle.record if handle is not None else None
            )


def _write(output: Any, path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    more: dict[str, Any] = {}
    if hasattr(output, "images"):
        picture = output.images[0]
    elif hasattr(output, "frames"):
        picture, *others = [
            one if isinstance(one, Image.Image) else Image.fromarray(as_bytes(one)[0]) for one in output.frames[0]
        ]
        more = {"save_all": True, "append_images": others, "duration": FRAME_MILLISECONDS, "loop": 0}
    else:
        raise PipelineError(f"{type(output).__name__} holds no picture and no video: only these can be written.")

    def save(buffer: BytesIO, kind: str) -> None:
        known = Image.registered_extensions()
        if f".{kind}" not in known:
            raise ValueError(f"{kind!r} names no format")
        picture.save(buffer, known[f".{kind}"], **more)

    write_encoded(path, save)
