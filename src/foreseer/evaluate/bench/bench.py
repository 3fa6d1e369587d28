"""Run the reference once per prompt, then every entry on the same prompts and seeds; resumable."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreseer.checks import check_texts
from foreseer.errors import ForeseerWarning
from foreseer.evaluate.bench.result_store import BenchError, ResultStore
from foreseer.evaluate.bench.results import BenchResults
from foreseer.evaluate.entries.base import Entry
from foreseer.evaluate.metrics import check_measures
from foreseer.evaluate.sampling.call_options import ArgumentBuilder, CallOptions
from foreseer.evaluate.sampling.environment import environment
from foreseer.pipelines import call_arguments

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int, str], None]

KEPT_EVERY = 10  # steps between the samples that are compared with the reference's


@dataclass(frozen=True)
class Bench:
    """Settings of a bench.

    Attributes:
        model: name, folder or hub id, as reports show it.
        prompts: at least one.
        steps: steps of the reference.
        seed: seed of the first prompt; each next prompt adds one.
        options: keyword arguments for the pipeline's call (height, guidance, ...).
        decode: whether to make pictures; otherwise runs end at the latent.
        incomparable: reason why nothing can be compared with the reference (random weights), else ``None``.
        measures: names of the measures to show; by default all that apply.
        real: folder of real pictures, for FID.
        title: heading of the report.
        command: command line that started the bench.
        notes: sentences for the report.
        published: a paper's figures by entry name (``reference`` for the run with every step), then by column name.
        arguments: function from pipeline, prompt and options to the keyword arguments of a call.

    Raises:
        BenchError: there is no prompt, or a measure is unknown.
    """

    model: str
    prompts: Sequence[str]
    steps: int
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    decode: bool = True
    incomparable: str | None = None
    measures: Sequence[str] | None = None
    real: Path | None = None
    title: str = "Foreseer bench"
    command: str = ""
    notes: Sequence[str] = ()
    published: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
    arguments: ArgumentBuilder = call_arguments

    def __post_init__(self) -> None:
        check_texts("prompts", self.prompts, BenchError)
        check_measures(self.measures, BenchError)

    def call_options(self) -> CallOptions:
        """How to call the pipeline in every measured run."""
        kept_steps = range(KEPT_EVERY, self.steps + 1, KEPT_EVERY) if self.incomparable is None else ()
        return CallOptions(dict(self.options), self.decode, kept_steps, self.arguments)

    def identity(self, pipe: Any) -> dict[str, Any]:
        """Settings that all results in one folder must share."""
        facts = environment(pipe)
        prompts = json.dumps(list(self.prompts)).encode()
        return {
            "model": self.model,
            "pipeline": type(pipe).__name__,
            "weights": fingerprint(pipe),
            "steps": self.steps,
            "seed": self.seed,
            "options": {name: _json_value(value) for name, value in self.options.items()},
            "decode": self.decode,
            "prompts": f"{len(self.prompts)}, {hashlib.sha256(prompts).hexdigest()[:12]}",
            "versions": {name: facts.get(name) for name in ("foreseer", "torch", "diffusers")},
            "threads": facts["threads"],
        }


def run_bench(
    bench: Bench,
    entries: Sequence[Entry],
    pipe: Any,
    folder: Path,
    progress: Progress = lambda done, total, title: None,
    *,
    announce: Callable[[str], None] = lambda estimate: None,
) -> BenchResults:
    """Measure every entry on every prompt, resuming an earlier bench in ``folder``.

    Runs are interleaved: each entry is warmed up, then all entries draw the first prompt, then the second, each time
    beginning with another entry. An entry that raises is left out from then on and its error is reported.

    Args:
        bench: the settings.
        entries: unique by name and budget.
        pipe: a diffusers pipeline with nothing attached.
        folder: folder for runs and pictures; it holds one bench only.
        progress: called with the runs done, the runs in all and a title.
        announce: called once with an estimate of the remaining time, after the first run of the reference.

    Raises:
        BenchError: the folder belongs to another bench, is in use or full; or the reference cannot be drawn.
    """
    from foreseer.evaluate.bench.engine import Engine
    from foreseer.evaluate.bench.scoring import score
    from foreseer.evaluate.bench.summary import summarise

    store = ResultStore(folder)
    with store.locked(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeseerWarning)  # the report lists steps that failed open
        store.check_identity(bench.identity(pipe))
        engine = Engine(bench, entries, pipe, store, progress, announce=announce)
        engine.run()
        scores = score(bench, list(engine.entries), engine.reference, store, progress)
        return summarise(bench, engine.entries, store, engine.errors, scores, environment=environment(pipe))


def fingerprint(pipe: Any) -> str:
    """Digest of a pipeline: its scheduler; shape, dtype and a few values of each parameter."""
    from foreseer.evaluate.sampling.cost import modules

    config = {name: value for name, value in pipe.scheduler.config.items() if not name.startswith("_")}
    scheduler = [type(pipe.scheduler).__name__, config]
    digest = hashlib.sha256(json.dumps(scheduler, sort_keys=True, default=repr).encode())
    for module in modules(pipe):
        for name, parameter in _parameters(module):
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} ".encode())
            if parameter.device.type != "meta":
                values = parameter.detach().reshape(-1)[:: max(1, parameter.numel() // 4)][:4]
                digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _json_value(value: Any) -> Any:
    """A call option as JSON can hold it: pictures and tensors by their fingerprint."""
    from foreseer.calibration.identity import fingerprint

    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return fingerprint(value)


def _parameters(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    # Sorted by name: a peer or an offloading hook may have changed the order of submodules.
    yield from sorted(module.named_parameters(), key=lambda item: item[0])
