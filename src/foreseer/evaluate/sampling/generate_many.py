"""`foreseer generate --prompts`: one picture per prompt and seed, on any number of workers, resumable."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foreseer import pipelines
from foreseer.attach.accelerate import attach
from foreseer.attach.network.denoisers import find_denoisers
from foreseer.calibration.job_checks import check_prompts, check_seed
from foreseer.calibration.jobs import PromptRuns, prompt_unit
from foreseer.checks import check_count
from foreseer.errors import ForeseerError, ScaleError
from foreseer.evaluate.sampling.environment import device_name
from foreseer.evaluate.sampling.generate import choices_of
from foreseer.evaluate.sampling.picture_files import write_result
from foreseer.evaluate.sampling.timing import time_loop
from foreseer.files import read_json, read_whole, write_atomically
from foreseer.pipelines import call_arguments, drawn_or_none
from foreseer.plan import Policy
from foreseer.scale import Failure, Place, Store, Task, Unit, Worker, model_of, place_of, run_units
from foreseer.scale.units import Progress

MANIFEST = "manifest.jsonl"
MOST_BYTES = 2**32
# What each line of a manifest holds.
LINE: dict[str, type] = {
    **dict.fromkeys(("file", "sha256", "prompt", "host", "device", "fingerprint"), str),
    **dict.fromkeys(("seed", "steps", "nfe", "forward_passes"), int),
    "seconds": float,
    "failed_open": list,
}


@dataclass(frozen=True)
class Drawing:
    """What is drawn of each prompt.

    Args:
        steps: of the sampler.
        policy: computes and forecasts; ``None`` computes every step.
        seed: of the first picture.
        seeds_per_prompt: pictures of each prompt; prompt i has the seeds ``seed + i * seeds_per_prompt`` and following.
        options: more keyword arguments of the pipeline's call.
        fallback: whether the output is forecast where the policy's site is not available.
        force: whether rows that were learned on another network or with other guidance may be used.
    """

    steps: int
    policy: Policy | None = None
    seed: int = 0
    seeds_per_prompt: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    fallback: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        check_count("steps", self.steps, ForeseerError, least=1)
        check_seed(self.seed)
        check_count("seeds_per_prompt", self.seeds_per_prompt, ForeseerError, least=1)

    def units(self, prompts: Sequence[str], identity: Mapping[str, str]) -> list[Unit]:
        """A unit per prompt and seed, in the order of the manifest."""
        policy = hashlib.sha256(pickle.dumps(self.policy)).hexdigest()
        count = self.seeds_per_prompt
        return [
            prompt_unit("picture", index, prompts[index // count], self.seed + index, {**identity, "policy": policy})
            for index in range(len(prompts) * count)
        ]


def generate_many(
    model: Any,
    prompts: Sequence[str],
    folder: Path,
    drawing: Drawing,
    *,
    workers: int | Place | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any] | Failure]:
    """Draw every prompt with every seed, and write a manifest.

    A picture that is there, with the SHA-256 that its line in the manifest states, is not drawn again unless the model,
    the policy, an option or a version changed. A picture that cannot be drawn is left out; the next call tries again.

    Args:
        model: a pipeline, or for workers its name: see :class:`foreseer.scale.Model`.
        prompts: at least one.
        folder: of the pictures; all workers must see it under the same path.
        drawing: steps, policy, seeds and options.
        workers: a number of processes on this machine, or a place; by default this process.
        progress: called with pictures done, pictures in all, and a state.

    Returns:
        The manifest's lines, and a failure for each picture that could not be drawn.

    Raises:
        ScaleError: workers cannot be started, or the folder cannot be written.
    """
    prompts = check_prompts(prompts)
    store = Manifest(folder)
    with place_of(workers).pool() as pool:
        count = len(prompts) * drawing.seeds_per_prompt
        runs = PromptRuns(model_of(model), drawing.steps, drawing.options).identified(pool, count)
        task = DrawPicture(runs, drawing.policy, str(folder.absolute()), drawing.fallback, drawing.force)
        units = drawing.units(prompts, runs.identity)
        results = run_units(pool, task, units, store=store, progress=progress, on_failure="keep")
    lines = [result if isinstance(result, Failure) else json.loads(result) for result in results]
    store.rewrite([line for line in lines if not isinstance(line, Failure)])
    return lines


@dataclass(frozen=True)
class DrawPicture(Task):
    """Draw a prompt, write the picture, and return its line of the manifest."""

    runs: PromptRuns
    policy: Policy | None
    folder: str
    fallback: bool
    force: bool

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """One picture. The policy stays attached between the units of a worker."""
        prompt, seed = unit.payload
        pipe, options = self.runs.on(worker)
        policy = self.policy
        handle = worker.enter(lambda: nullcontext() if policy is None else attach(pipe, policy, **choices_of(self)))
        arguments = call_arguments(pipe, prompt, {**options, "num_inference_steps": self.runs.steps})
        with time_loop(pipe) as loop, _counted_calls(pipe) as calls:
            output = pipelines.run(pipe, arguments, seed)
        made = drawn_or_none(output)
        suffix = ".gif" if made is not None and made.is_video else ".png"
        name = f"{unit.name.rpartition('-')[2]}-{seed}{suffix}"
        name = write_result(pipe, output, Path(self.folder) / name).name
        record = handle.record if handle is not None else None
        line = {
            "file": name,
            "sha256": _sha256(Path(self.folder) / name),
            "prompt": prompt,
            "seed": seed,
            "steps": loop.steps,
            "nfe": loop.steps if record is None else record.nfe,
            "forward_passes": len(calls) if record is None else record.forward_passes,
            "seconds": round(loop.seconds, 6),
            "failed_open": [] if record is None else [f"{one.step}: {one.reason}" for one in record.failed_open],
            "host": socket.gethostname(),
            "device": device_name(pipe),
        }
        return json.dumps(line).encode()


@contextmanager
def _counted_calls(pipe: Any) -> Iterator[list[int]]:
    """One entry per call of a denoiser."""
    calls: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, args: calls.append(1))
        for module in find_denoisers(pipe).values()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


class Manifest(Store):
    """The manifest of a folder: one JSON object per line, appended as pictures are done.

    A line that was cut by a crash, or lacks an entry, is ignored, and its picture is drawn again.

    Raises:
        ScaleError: the folder cannot be created or written to, or its manifest cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / MANIFEST
        self._cut = False
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, "permission denied")
            self._lines = {line["file"]: line for line in self._read()}

    def get(self, unit: Unit) -> bytes | None:
        """The line of a unit whose picture is there and unchanged."""
        for suffix in (".png", ".gif", ".wav"):
            name = f"{unit.name.rpartition('-')[2]}-{unit.payload[1]}{suffix}"
            line = self._lines.get(name)
            if line is None or line["fingerprint"] != _digest(unit):
                continue
            with suppress(OSError):
                if line["sha256"] == _sha256(self.folder / name):
                    return json.dumps(line).encode()
        return None

    def put(self, unit: Unit, result: bytes) -> None:
        """Append a line."""
        line = {**json.loads(result), "fingerprint": _digest(unit)}
        self._lines[line["file"]] = line
        with self._writing():
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{chr(10) if self._cut else ''}{json.dumps(line)}\n")
            self._cut = False

    def rewrite(self, lines: list[dict[str, Any]]) -> None:
        """Replace the manifest atomically; lines without a fingerprint get the stored one."""
        content = "".join(f"{json.dumps(self._lines.get(line['file'], line))}\n" for line in lines)
        with self._writing():
            write_atomically(self.path, content.encode())

    def _read(self) -> Iterator[dict[str, Any]]:
        try:
            content = read_whole(self.path, MOST_BYTES)
        except FileNotFoundError:
            return
        self._cut = bool(content) and not content.endswith(b"\n")
        for text in content.splitlines():
            try:
                line = read_json(text)
            except ValueError:
                continue
            if isinstance(line, dict) and all(isinstance(line.get(name), kind) for name, kind in LINE.items()):
                yield line

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ScaleError(
                f"Cannot use {self.path}: {error.strerror or error}. Mend that and start again: pictures are kept."
            ) from error


def _digest(unit: Unit) -> str:
    return hashlib.sha256(unit.fingerprint.encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_whole(path, MOST_BYTES)).hexdigest()
