"""The bench: the reference once a prompt, then every contender on the same prompts and seeds; resumable."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from foreseer.calibration.identity import fingerprint as fingerprint_of
from foreseer.errors import ForeseerWarning
from foreseer.evaluate.cells import BenchError, Cells
from foreseer.evaluate.contender import Contender
from foreseer.evaluate.cost import modules
from foreseer.evaluate.engine import Engine, Progress
from foreseer.evaluate.environment import environment
from foreseer.evaluate.fidelity import FIDELITY
from foreseer.evaluate.quality import QUALITY
from foreseer.evaluate.results import BenchResults
from foreseer.evaluate.sample import Arguments, Asked
from foreseer.evaluate.score import score
from foreseer.evaluate.summary import summarise
from foreseer.pipelines import call_arguments

KEPT_EVERY = 10  # steps between the samples that are compared with the reference's


@dataclass(frozen=True)
class Bench:
    """What a bench is asked for.

    Attributes:
        model: name, folder or hub id, as reports show it.
        prompts: at least one.
        steps: of the reference.
        seed: of the first prompt; the next has the next.
        options: keyword arguments for the pipeline's call (height, guidance, ...).
        decode: whether pictures are made; without, runs end at the latent.
        unlike: why nothing may be compared with the reference (random weights); ``None`` to compare.
        measures: names of the measures to show; by default all that apply.
        real: a folder of real pictures, for FID.
        title: heading of the report.
        command: what was typed.
        notes: sentences for the report.
        published: a paper's figures by contender's name, ``reference`` for every step, each by its own column names.
        arguments: from pipeline, prompt and options to the keyword arguments of a call.
    """

    model: str
    prompts: Sequence[str]
    steps: int
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    decode: bool = True
    unlike: str | None = None
    measures: Sequence[str] | None = None
    real: Path | None = None
    title: str = "Foreseer bench"
    command: str = ""
    notes: Sequence[str] = ()
    published: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
    arguments: Arguments = call_arguments

    def __post_init__(self) -> None:
        if not self.prompts:
            raise BenchError("A bench needs at least one prompt.")
        unknown = [name for name in self.measures or () if name not in (*FIDELITY, *QUALITY)]
        if unknown:
            known = ", ".join((*FIDELITY, *QUALITY))
            raise BenchError(f"Unknown measure {unknown[0]!r}: expected one of {known}.")

    def calls(self) -> Asked:
        """How each run is called."""
        kept = range(KEPT_EVERY, self.steps + 1, KEPT_EVERY) if self.unlike is None else ()
        return Asked(dict(self.options), self.decode, kept, self.arguments)

    def identity(self, pipe: Any) -> dict[str, Any]:
        """What all results in one folder must share."""
        about = environment(pipe)
        words = json.dumps(list(self.prompts)).encode()
        return {
            "model": self.model,
            "pipeline": type(pipe).__name__,
            "weights": fingerprint(pipe),
            "steps": self.steps,
            "seed": self.seed,
            "options": {name: _plain(value) for name, value in self.options.items()},
            "decode": self.decode,
            "prompts": f"{len(self.prompts)}, {hashlib.sha256(words).hexdigest()[:12]}",
            "versions": {name: about.get(name) for name in ("foreseer", "torch", "diffusers")},
            "device": about["device"],
            "threads": about["threads"],
        }


def run_bench(
    asked: Bench,
    contenders: Sequence[Contender],
    pipe: Any,
    folder: Path,
    progress: Progress = lambda done, total, words: None,
) -> BenchResults:
    """Measure every contender on every prompt, and go on where an earlier bench in ``folder`` ended.

    Runs are interleaved prompt by prompt, in an order that turns, after each contender's warm-up. A contender that
    raises is left out from there on and its error reported.

    Args:
        asked: what to measure on.
        contenders: unique by name and budget.
        pipe: a diffusers pipeline, not attached.
        folder: where cells and pictures go; of one bench.
        progress: called with runs done, runs in all and a few words.

    Raises:
        BenchError: the folder is another bench's, in use or full; or the reference cannot be drawn.
    """
    cells = Cells(folder)
    with cells.locked(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeseerWarning)  # steps that failed open are in the report
        cells.check_identity(asked.identity(pipe))
        engine = Engine(asked, contenders, pipe, cells, progress)
        engine.run()
        scores = score(asked, list(engine.entries), engine.reference, cells, progress)
        return summarise(asked, engine.entries, cells, engine.errors, scores, environment=environment(pipe))


def fingerprint(pipe: Any) -> str:
    """A short digest of a pipeline: its scheduler; shape, dtype and a few values of each parameter of its networks."""
    config = {name: value for name, value in pipe.scheduler.config.items() if not name.startswith("_")}
    scheduler = [type(pipe.scheduler).__name__, config]
    digest = hashlib.sha256(json.dumps(scheduler, sort_keys=True, default=repr).encode())
    for module in modules(pipe):
        for name, parameter in _parameters(module):
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} ".encode())
            if parameter.device.type != "meta":
                few = parameter.detach().reshape(-1)[:: max(1, parameter.numel() // 4)][:4]
                digest.update(few.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _plain(value: Any) -> Any:
    """A value of the pipeline's call as JSON can hold it: a picture or a tensor as its fingerprint."""
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return fingerprint_of(value)


def _parameters(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    # A peer or an offloading hook may have wrapped modules; the parameters' own order does not change.
    yield from sorted(module.named_parameters(), key=lambda one: one[0])
