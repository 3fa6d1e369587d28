"""A bench on workers: prompts are spread over workers; the entries of a prompt share one."""

from __future__ import annotations

import json
import pickle
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreseer.calibration.jobs import content
from foreseer.errors import ForeseerWarning
from foreseer.evaluate.bench.engine import Engine
from foreseer.evaluate.bench.result_store import ResultStore
from foreseer.evaluate.bench.results import BenchResults
from foreseer.evaluate.bench.scoring import score
from foreseer.evaluate.bench.summary import summarise
from foreseer.evaluate.sampling.environment import environment
from foreseer.scale import Place, Task, Unit, Worker, run_units
from foreseer.scale.units import Progress

if TYPE_CHECKING:
    from foreseer.evaluate.bench.prepare import PreparedBench

    Make = Callable[[], PreparedBench]


def run_bench_on(
    place: Place, make: Make, folder: Path, progress: Progress = lambda done, total, state: None
) -> BenchResults:
    """Measure every entry on every prompt, and continue where an earlier bench in ``folder`` ended.

    Args:
        place: where the workers are.
        make: builds the bench, its entries and its pipeline in each worker; pickled, so a function of a module, or
            ``functools.partial`` of one.
        folder: of cells and pictures; all workers must see it under the same path.
        progress: called with prompts done, prompts in all, and a state.

    Raises:
        BenchError: the folder belongs to another bench, is in use or full; or the reference cannot be drawn.
        ScaleError: workers cannot be started, or are lost again and again.
    """
    store, where = ResultStore(folder), str(folder.absolute())
    with store.locked(), place.pool() as pool:
        asked = [Unit(f"open-{index}") for index in range(pool.size)]
        opened = json.loads(content(run_units(pool, OpenBench(make, where), asked)[0]))
        store.check_identity(opened["identity"])
        keys = [Unit(f"prepare-{index:03d}", key) for index, key in enumerate(opened["active"])]
        reports = run_units(pool, PrepareEntry(make, where), keys)
        prompts = [Unit(f"prompt-{index:05d}", index) for index in range(opened["prompts"])]
        reports += run_units(pool, RunPrompt(make, where), prompts, progress=progress)
        errors = {key: reason for report in reports for key, reason in json.loads(content(report)).items()}
        (results,) = run_units(pool, Summarise(make, where, errors), [Unit("summary")])
    return BenchResults.from_dict(json.loads(content(results)))


@dataclass(frozen=True)
class BenchTask(Task):
    """A task of one bench; a worker builds the bench once for all of them."""

    make: Make
    folder: str

    def engine(self, worker: Worker) -> Engine:
        """The engine of this worker."""
        key = "bench", sha256(pickle.dumps(self.make)).hexdigest(), self.folder
        if key not in worker.memory:
            worker.limit_threads()
            prepared = self.make()
            store = ResultStore(Path(self.folder))
            worker.memory[key] = Engine(prepared.bench, prepared.entries, prepared.pipe, store, lambda *state: None)
        return worker.memory[key]

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """Do one unit, with warnings of steps that failed open left to the report."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ForeseerWarning)
            return json.dumps(self.report(self.engine(worker), unit.payload)).encode()

    @abstractmethod
    def report(self, engine: Engine, payload: Any) -> Any:
        """What one unit gives, as JSON can hold it."""


@dataclass(frozen=True)
class OpenBench(BenchTask):
    """Identity of the bench, number of prompts, and keys of entries with something left to run."""

    def report(self, engine: Engine, payload: Any) -> Any:
        """From the engine."""
        asked = engine.bench
        active = [key for key in engine.entries if key in engine.active]
        return {"identity": asked.identity(engine.pipe), "prompts": len(asked.prompts), "active": active}


@dataclass(frozen=True)
class PrepareEntry(BenchTask):
    """Measure what a entry's runs cost, which one worker does for all; the result is errors by key."""

    def report(self, engine: Engine, payload: Any) -> Any:
        """Write the entry's file."""
        engine.prepare(payload)
        return engine.errors


@dataclass(frozen=True)
class RunPrompt(BenchTask):
    """Run every entry that a prompt lacks; the result is errors by key."""

    def report(self, engine: Engine, payload: Any) -> Any:
        """Write the prompt's store."""
        engine.pending[payload] = engine.missing(payload)
        engine.run_prompt(payload)
        return engine.errors


@dataclass(frozen=True)
class Summarise(BenchTask):
    """Take the measures of quality, and sum up."""

    errors: dict[str, str]

    def report(self, engine: Engine, payload: Any) -> Any:
        """The results as plain values."""
        asked, store = engine.bench, engine.store
        scores = score(asked, list(engine.entries), engine.reference, store, engine.progress)
        about = environment(engine.pipe)
        return summarise(asked, engine.entries, store, self.errors, scores, environment=about).to_dict()
