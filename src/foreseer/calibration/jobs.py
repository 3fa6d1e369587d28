"""What calibration, rollout and their like share when they run prompts on workers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from foreseer.calibration.identity import identity_of, text_of
from foreseer.calibration.job_checks import check_pipeline
from foreseer.calibration.record import Trajectory
from foreseer.calibration.replay import find_call
from foreseer.errors import CalibrationError
from foreseer.grid import Grid
from foreseer.pipelines import with_pictures
from foreseer.plan.plan import SCHEDULER
from foreseer.scale import Failure, Store, Task, Unit, Worker, run_units
from foreseer.scale.model import AnyModel
from foreseer.scale.place import Pool

IDENTITY = "identity"  # in a worker's memory: the last one that its pipeline was found to have
OF_PROMPTS = ("prompts", "prompts_hash", "seed")  # what an identity holds of the prompts, not of the pipeline


@dataclass(frozen=True)
class PromptRuns:
    """How a job calls its pipeline.

    Args:
        model: of the pipeline.
        steps: that a call asks for.
        options: more keyword arguments of the call.
        identity: that the pipeline of every worker must have; empty to accept any.
        guidance: of the runs, as text; empty if unknown.
    """

    model: AnyModel
    steps: int
    options: Mapping[str, Any]
    identity: Mapping[str, str] = field(default_factory=dict)
    guidance: str = ""

    def on(self, worker: Worker) -> tuple[Any, dict[str, Any]]:
        """Return a worker's pipeline and the options of its call, without the number of steps.

        Options of the pipeline's folder come first; ``options`` override them.

        Raises:
            CalibrationError: the pipeline cannot be calibrated on, or has another identity.
        """
        pipe, defaults = worker.pipeline(self.model)
        merged = {**defaults, **with_pictures(pipe, self.options)}
        options = {name: value for name, value in merged.items() if name != "num_inference_steps"}
        if self.identity and worker.memory.get(IDENTITY) != self.identity:
            identity = self._identity(pipe, options)
            differing = [key for key in self.identity if self.identity[key] != identity.get(key)]
            if differing:
                raise CalibrationError(
                    f"The workers' pipelines differ ({', '.join(differing)}; on {socket.gethostname()}): give all of "
                    "them the same model."
                )
            worker.memory[IDENTITY] = self.identity
        return pipe, options

    @property
    def origin(self) -> dict[str, str]:
        """The scheduler and the guidance, as a plan's provenance names them."""
        return {**{name: self.identity[name] for name in SCHEDULER}, "guidance": self.guidance}

    def call(self, options: dict[str, Any]) -> dict[str, Any]:
        """``options`` with the number of steps, for a run that ends at the latent unless they say otherwise."""
        return {"output_type": "latent", **options, "num_inference_steps": self.steps}

    def find(self, worker: Worker, prompt: Any, grid: Grid, recorded: str) -> tuple[Any, dict[str, Any], Trajectory]:
        """Return a worker's pipeline, the options of calls whose runs are on ``grid``, and a run's first step.

        Raises:
            CalibrationError: no number of steps gives such a run.
        """
        pipe, options = self.on(worker)
        asked = {name: value for name, value in self.options.items() if name == "num_inference_steps"}
        return pipe, *find_call(pipe, prompt, grid, {**options, **asked}, recorded)

    def read_identity(self, worker: Worker) -> dict[str, str]:
        """Names, digests and versions of a worker's pipeline.

        Raises:
            CalibrationError: it cannot be calibrated on.
        """
        return self._identity(*self.on(worker))

    def identified(self, pool: Pool, most_workers: int) -> PromptRuns:
        """The same, with the identity of a worker's pipeline; asking every worker has them load in parallel."""
        asked = [Unit(f"identity-{index}") for index in range(min(pool.size, most_workers))]
        answers = run_units(pool, Identify(self), asked)
        return replace(self, identity=json.loads(content(answers[0])))

    def _identity(self, pipe: Any, options: dict[str, Any]) -> dict[str, str]:
        check_pipeline(pipe)
        identity = identity_of(pipe, [], self.steps, 0, options)
        return {name: value for name, value in identity.items() if name not in OF_PROMPTS}


@dataclass(frozen=True)
class Identify(Task):
    """The identity of a worker's pipeline under the options of a job, as JSON."""

    runs: PromptRuns

    def run(self, worker: Worker, unit: Unit) -> bytes:
        """Ask this worker."""
        return json.dumps(self.runs.read_identity(worker)).encode()


def prompt_unit(
    kind: str, index: int, prompt: Any, seed: int, identity: Mapping[str, str], *, home: bool = False
) -> Unit:
    """The unit of one prompt and seed.

    Args:
        kind: of the unit; the beginning of its name.
        index: of the prompt, from 0.
        prompt: text.
        seed: of the initial noise.
        identity: everything else that the result depends on.
        home: whether units of this prompt go to the same worker.
    """
    text = text_of(prompt)
    words = json.dumps({**identity, "prompt": text, "seed": seed}, sort_keys=True)
    return Unit(f"{kind}-{index:05d}", (prompt, seed), words, home=f"{seed} {text}" if home else None)


class Work:
    """Counts what is done for a progress bar.

    Attributes:
        done: so far, in forward passes or steps of runs.
        total: expected in all.
    """

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress = progress
        self._shown = (-1, 0)
        self.total = total
        self.done = 0

    def did(self, amount: int) -> None:
        """Add a finished amount."""
        self.reach(self.done + amount)

    def reach(self, done: int) -> None:
        """Set what is done in all; report it if it has changed."""
        self.done = done
        if self._progress is not None and (done, self.total) != self._shown:
            self._shown = done, self.total
            self._progress(done, self.total)


def on_prompts(
    pool: Pool,
    task: Task,
    seeded: Sequence[tuple[int, Any]],
    *,
    kind: str,
    identity: Mapping[str, str],
    store: Store,
    work: Work,
    each: int = 1,
    first: int = 0,
) -> list[bytes]:
    """The results of a task for all prompts, in their order; a barrier.

    Args:
        pool: of workers; units of one prompt go to the same one.
        task: what is done with each prompt.
        seeded: seed and prompt of each unit.
        kind: of the units; with ``identity`` unique in the job.
        identity: everything but prompt and seed that the results depend on.
        store: where results are kept.
        work: counts ``each`` per prompt.
        each: work per prompt.
        first: index of the first prompt to take.
    """
    units = [
        prompt_unit(kind, index, prompt, seed, identity, home=True) for index, (seed, prompt) in enumerate(seeded)
    ][first:]
    before = work.done
    progress = lambda done, total, state: work.reach(before + each * done)  # noqa: E731
    return [content(result) for result in run_units(pool, task, units, store=store, progress=progress)]


def with_header(header: Any, array: np.ndarray) -> bytes:
    """A result that is a line of JSON, then an array as float64."""
    return json.dumps(header).encode() + b"\n" + np.ascontiguousarray(array, np.float64).tobytes()


def split_header(result: bytes | Failure) -> tuple[Any, np.ndarray]:
    """The header and the flat array of a result that :func:`with_header` made."""
    header, _, array = content(result).partition(b"\n")
    return json.loads(header), np.frombuffer(array)


def content(result: bytes | Failure) -> bytes:
    """The bytes of a result; failures were raised before."""
    assert isinstance(result, bytes)
    return result
