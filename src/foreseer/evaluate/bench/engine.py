"""Set entries up, warm them up and run them in turn, storing each run when it ends."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foreseer.errors import in_one_line
from foreseer.evaluate.bench.result_store import BenchError, ResultStore, entry_path, key_of, run_path
from foreseer.evaluate.entries.base import Entry, LazyEntry, PlainEntry, PolicyEntry
from foreseer.evaluate.metrics.fidelity import fidelity_of, latent_errors
from foreseer.evaluate.sampling.call_options import CallOptions
from foreseer.evaluate.sampling.cost import count_denoiser, watch_memory
from foreseer.evaluate.sampling.environment import device_name
from foreseer.evaluate.sampling.sample import Sample, prepared, sample
from foreseer.pipelines.outputs import not_finite

if TYPE_CHECKING:
    from foreseer.evaluate.bench.bench import Bench, Progress

WARM_UP_STEPS = 2


class Engine:
    """The running part of a bench.

    Args:
        bench: the settings.
        entries: unique by name and budget.
        pipe: a diffusers pipeline with nothing attached.
        store: the bench's folder, locked.
        progress: called with the runs done, the runs in all and a title.
        announce: called once with an estimate of the remaining time.

    Raises:
        BenchError: two entries are the same.
    """

    def __init__(
        self,
        bench: Bench,
        entries: Sequence[Entry],
        pipe: Any,
        store: ResultStore,
        progress: Progress,
        *,
        announce: Callable[[str], None] = lambda estimate: None,
    ) -> None:
        self.bench, self.pipe, self.store, self.progress = bench, pipe, store, progress
        self.announce: Callable[[str], None] | None = announce
        self.call_options = bench.call_options()
        reference = PlainEntry("reference", "Every step", bench.steps)
        self.entries = {entry_key(entry): entry for entry in (reference, *entries)}
        if len(self.entries) < len(entries) + 1:
            raise BenchError("Two entries have the same name, budget and settings.")
        self.reference = entry_key(reference)
        self.errors: dict[str, str] = {}
        self.done, self.current = 0, -1
        self._warm, self._prepared = False, set[str]()
        self.place = {"host": socket.gethostname(), "device": device_name(pipe)}
        self.pending = {index: self.missing(index) for index in range(len(bench.prompts))}
        self.active = {key for keys in self.pending.values() for key in keys}
        self.total = sum(map(len, self.pending.values())) + len(self.active) + bool(self.active)

    def run(self) -> None:
        """Prepare, warm up and do the runs that are missing from the store."""
        for key in [key for key in self.entries if key in self.active]:
            self.prepare(key)
        for index in self.pending:
            self.run_prompt(index)

    def prepare(self, key: str) -> None:
        """Warm up the pipeline and one entry, once each, and measure what the entry's runs cost."""
        if not self._warm:
            self._warm = True
            self._guard(self.reference, self._warm_up)
        if key not in self._prepared:
            self._prepared.add(key)
            self._guard(key, lambda: self._prepare(key))

    def run_prompt(self, index: int) -> None:
        """Run the entries that a prompt lacks, interleaved on this device, each time beginning with another."""
        self.current = index
        keys, order = self.pending[index], list(self.entries)
        for key in order[index % len(order) :] + order[: index % len(order)]:
            if key in keys:
                self.prepare(key)
            if key in keys and key not in self.errors:
                self._guard(key, lambda key=key: self._draw(index, key))
        self._compare(index)

    def _guard(self, key: str, work: Callable[[], None]) -> None:
        """Do ``work``; record an entry's failure, end the bench at the reference's."""
        self.progress(self.done, self.total, self.entries[key].title)
        try:
            work()
        except BenchError:
            raise
        except Exception as error:
            if key == self.reference:
                raise BenchError(f"The reference cannot be drawn: {in_one_line(error)}") from error
            self.errors[key] = in_one_line(error)
            self.total -= sum(key in keys for index, keys in self.pending.items() if index > self.current)
        if key in self.errors:  # not in the handler: there the traceback still holds the run's tensors
            gc.collect()
            torch.cuda.empty_cache()
        self.done += 1
        self.progress(self.done, self.total, self.entries[key].title)

    def _warm_up(self) -> None:
        """Make one short run to its picture, so that encoders and decoder are warm."""
        entry = self.entries[self.reference]
        self._sample(replace(entry, steps=min(WARM_UP_STEPS, entry.steps)), self.call_options)

    def _prepare(self, key: str) -> None:
        """Set an entry up and warm it up, measuring the cost of a run unless the store has it."""
        entry = self.entries[key]
        if isinstance(entry, LazyEntry):
            entry = self.entries[key] = entry.make(self.pipe)
        description = self.store.read(entry_path(key))
        if description is not None and "peak_memory" in description:
            self._sample(entry, replace(self.call_options, decode=False, keep=()))
            return
        self.store.write(entry_path(key), _description(entry) | self._cost(entry))

    def _cost(self, entry: Entry) -> dict[str, Any]:
        """Measure the denoiser's operations and the peak of memory, in untimed runs that end at the latent."""
        options = replace(self.call_options, decode=False, keep=())
        call = (self.pipe, entry, self.bench.prompts[0], self.bench.seed, options)
        with prepared(*call) as run, count_denoiser(self.pipe) as cost:
            counted = run()
        with prepared(*call) as run, watch_memory(self.pipe) as peak:
            run()
        return {
            "flops": cost.flops or None,
            "forecast_flops": counted.record.forecast_flops if counted.record is not None else 0,
            "peak_memory": peak.bytes,
        }

    def _sample(self, entry: Entry, options: CallOptions, index: int = 0) -> Sample:
        return sample(self.pipe, entry, self.bench.prompts[index], self.bench.seed + index, options)

    def _draw(self, index: int, key: str) -> None:
        """Run once and store the run; the JSON file, which marks it as done, is written last."""
        drawn = self._sample(self.entries[key], self.call_options, index)
        name = run_path(index, key)
        arrays = [array for array in (drawn.sample, *drawn.latents.values()) if array is not None]
        finite = all(bool(np.all(np.isfinite(array))) for array in arrays)
        if key == self.reference and not finite:
            raise not_finite(type(self.pipe).__name__)
        if self.bench.incomparable is None:
            latents = {str(step): latent for step, latent in drawn.latents.items()}
            self.store.write_arrays(
                f"{name}.safetensors", latents if drawn.sample is None else {**latents, "sample": drawn.sample}
            )
        if drawn.sample is not None:
            self.store.write_picture(f"{name}.png", drawn.sample)
        self.store.write(
            f"{name}.json",
            {
                **self.place,
                "steps": drawn.steps,
                "nfe": drawn.nfe,
                "seconds": drawn.seconds,
                "end_to_end": drawn.end_to_end,
                "failed_open": len(drawn.record.failed_open) if drawn.record is not None else 0,
                "finite": finite,
                "video": drawn.sample is not None and drawn.sample.ndim == 4,
            },
        )

        if key == self.reference and self.announce is not None:
            self.announce(self._estimate(drawn.end_to_end / max(1, drawn.steps)))
            self.announce = None

    def _estimate(self, seconds_per_step: float) -> str:
        """Estimate the time of the runs that are left, a budget's share of the reference's time each."""
        left = [
            self.entries[key]
            for index, keys in self.pending.items()
            for key in keys
            if index >= self.current and key not in self.errors
        ]
        steps = sum(min(entry.steps, entry.budget or entry.steps) for entry in left)
        prompts = len(self.bench.prompts)
        plural = "s" if prompts > 1 else ""
        return f"{len(left)} runs on {prompts} prompt{plural}, about {duration(steps * seconds_per_step)}"

    def missing(self, index: int) -> list[str]:
        """Keys of the runs of a prompt that are still to do.

        The reference is among them if others must be compared with it and its samples were deleted. A prompt that was
        begun on another host or device is run again from its beginning: times on two machines do not compare.
        """
        runs = {key: self.store.read(f"{run_path(index, key)}.json") for key in self.entries}
        keys = [key for key, run in runs.items() if run is None]
        stored = [run for run in runs.values() if run is not None]
        if keys and any(run.get(name, here) != here for run in stored for name, here in self.place.items()):
            return list(self.entries)
        comparable = self.bench.incomparable is not None or self._arrays(index, self.reference).is_file()
        return keys if not keys or comparable or self.reference in keys else [self.reference, *keys]

    def _compare(self, index: int) -> None:
        """Measure the samples of a prompt against the reference's, then delete those no longer needed."""
        waiting = [key for key in self.entries if key != self.reference and self._arrays(index, key).is_file()]
        if not waiting:
            return
        reference = split_arrays(self.store.read_arrays(f"{run_path(index, self.reference)}.safetensors"))
        for key in waiting:
            name = run_path(index, key)
            content = self.store.read(f"{name}.json")
            arrays = split_arrays(self.store.read_arrays(f"{name}.safetensors"))
            if content is None or arrays is None or reference is None:
                continue
            content["latent_error"] = latent_errors(arrays[1], reference[1])
            if arrays[0] is not None and reference[0] is not None:
                content["fidelity"] = fidelity_of(arrays[0], reference[0])
            self.store.write(f"{name}.json", content)
            self.store.delete(f"{name}.safetensors")

    def _arrays(self, index: int, key: str) -> Path:
        return self.store.folder / f"{run_path(index, key)}.safetensors"


def entry_key(entry: Entry) -> str:
    """File name of an entry in a bench's folder."""
    if isinstance(entry, LazyEntry):
        details = entry.details
    else:
        policy = (repr(entry.policy),) if isinstance(entry, PolicyEntry) else ()
        details = (*policy, *sorted(map(repr, entry.settings.items())))
    return key_of(entry.name, entry.budget, entry.steps, *details)


def split_arrays(arrays: dict[str, np.ndarray] | None) -> tuple[np.ndarray | None, dict[int, np.ndarray]] | None:
    """Separate the sample of a stored run from its latents by step."""
    if arrays is None:
        return None
    return arrays.get("sample"), {int(name): array for name, array in arrays.items() if name != "sample"}


def duration(seconds: float) -> str:
    """Format a duration in its natural unit.

    >>> duration(12.3), duration(200), duration(9000)
    ('12 s', '3 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _description(entry: Entry) -> dict[str, Any]:
    return {"title": entry.title, "steps": entry.steps, "budget": entry.budget, "settings": dict(entry.settings)}
