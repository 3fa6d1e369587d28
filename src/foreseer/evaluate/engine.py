"""A bench at work: contenders are set up, warmed up and run in turn; cells are written as they come."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foreseer.errors import in_one_line
from foreseer.evaluate.cells import BenchError, Cells, about, cell, key_of
from foreseer.evaluate.contender import Accelerated, Contender, Unaccelerated
from foreseer.evaluate.contenders import Deferred
from foreseer.evaluate.cost import count_denoiser, watch_memory
from foreseer.evaluate.fidelity import fidelity_of, latent_errors
from foreseer.evaluate.sample import Asked, Sampled, prepared, sample

if TYPE_CHECKING:
    from foreseer.evaluate.bench import Bench

Progress = Callable[[int, int, str], None]
WARM_UP_STEPS = 2


class Engine:
    """One bench at work.

    Args:
        asked: what to measure on.
        contenders: unique by name and budget.
        pipe: a diffusers pipeline, not attached.
        cells: of the folder, locked.
        progress: called with runs done, runs in all and a few words.

    Raises:
        BenchError: two contenders are the same.
    """

    def __init__(
        self, asked: Bench, contenders: Sequence[Contender], pipe: Any, cells: Cells, progress: Progress
    ) -> None:
        self.asked, self.pipe, self.cells, self.progress = asked, pipe, cells, progress
        self.calls = asked.calls()
        reference = Unaccelerated("reference", "Every step", asked.steps)
        self.entries = {entry_key(one): one for one in (reference, *contenders)}
        if len(self.entries) < len(contenders) + 1:
            raise BenchError("Two contenders have the same name, budget and settings.")
        self.reference = entry_key(reference)
        self.errors: dict[str, str] = {}
        self.done, self.current = 0, -1
        self.pending = {index: self._missing(index) for index in range(len(asked.prompts))}
        self.active = {key for keys in self.pending.values() for key in keys}
        self.total = sum(map(len, self.pending.values())) + len(self.active) + bool(self.active)

    def run(self) -> None:
        """Prepare, warm up and run what is missing."""
        if self.active:
            self._guard(self.reference, self._warm_up)
        for key in [key for key in self.entries if key in self.active]:
            self._guard(key, lambda key=key: self._prepare(key))
        for index, keys in self.pending.items():
            self.current = index
            order = list(self.entries)
            turned = order[index % len(order) :] + order[: index % len(order)]
            for key in turned:
                if key in keys and key not in self.errors:
                    self._guard(key, lambda key=key, index=index: self._draw(index, key))
            self._compare(index)

    def _guard(self, key: str, work: Callable[[], None]) -> None:
        """Do ``work``; a contender's failure is noted, the reference's ends the bench."""
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
        if key in self.errors:  # not above: there the error's traceback holds on to the run's tensors
            gc.collect()
            torch.cuda.empty_cache()
        self.done += 1
        self.progress(self.done, self.total, self.entries[key].title)

    def _warm_up(self) -> None:
        """A short run to its picture: encoders and decoder too. What follows warms up each contender's steps."""
        one = self.entries[self.reference]
        self._sample(replace(one, steps=min(WARM_UP_STEPS, one.steps)), self.calls)

    def _prepare(self, key: str) -> None:
        """Set a contender up, measure what its runs cost where that is not known, and so warm it up."""
        one = self.entries[key]
        if isinstance(one, Deferred):
            one = self.entries[key] = one.make(self.pipe)
        known = self.cells.read(about(key))
        if known is not None and "peak_memory" in known:
            self._sample(one, replace(self.calls, decode=False, keep=()))
            return
        self.cells.write(about(key), _description(one) | self._cost(one))

    def _cost(self, one: Contender) -> dict[str, Any]:
        """Operations of the denoiser and peak memory, in runs of their own that end at the latent."""
        calls = replace(self.calls, decode=False, keep=())
        asked = (self.pipe, one, self.asked.prompts[0], self.asked.seed, calls)
        with prepared(*asked) as run, count_denoiser(self.pipe) as cost:
            counted = run()
        with prepared(*asked) as run, watch_memory(self.pipe) as peak:
            run()
        return {
            "flops": cost.flops or None,
            "forecast_flops": counted.record.forecast_flops if counted.record is not None else 0,
            "peak_memory": peak.bytes,
        }

    def _sample(self, one: Contender, calls: Asked, index: int = 0) -> Sampled:
        return sample(self.pipe, one, self.asked.prompts[index], self.asked.seed + index, calls)

    def _draw(self, index: int, key: str) -> None:
        """Run once and write the cell; what says that it is done comes last."""
        drawn = self._sample(self.entries[key], self.calls, index)
        name = cell(index, key)
        made = [one for one in (drawn.sample, *drawn.latents.values()) if one is not None]
        if self.asked.unlike is None:
            arrays = {str(step): latent for step, latent in drawn.latents.items()}
            self.cells.write_arrays(
                f"{name}.safetensors", arrays if drawn.sample is None else {**arrays, "sample": drawn.sample}
            )
        if drawn.sample is not None:
            self.cells.write_picture(f"{name}.png", drawn.sample)
        self.cells.write(
            f"{name}.json",
            {
                "steps": drawn.steps,
                "nfe": drawn.nfe,
                "seconds": drawn.seconds,
                "end_to_end": drawn.end_to_end,
                "failed_open": len(drawn.record.failed_open) if drawn.record is not None else 0,
                "finite": all(bool(np.all(np.isfinite(one))) for one in made),
                "video": drawn.sample is not None and drawn.sample.ndim == 4,
            },
        )

    def _missing(self, index: int) -> list[str]:
        """What is to be run of a prompt; the reference too where others are to be compared and its samples are gone."""
        keys = [key for key in self.entries if self.cells.read(f"{cell(index, key)}.json") is None]
        comparable = self.asked.unlike is not None or self._arrays(index, self.reference).is_file()
        return keys if not keys or comparable or self.reference in keys else [self.reference, *keys]

    def _compare(self, index: int) -> None:
        """Measure the samples of a prompt against the reference's, and drop those that need not be kept."""
        waiting = [key for key in self.entries if key != self.reference and self._arrays(index, key).is_file()]
        if not waiting:
            return
        true = split_arrays(self.cells.read_arrays(f"{cell(index, self.reference)}.safetensors"))
        for key in waiting:
            name = cell(index, key)
            content = self.cells.read(f"{name}.json")
            mine = split_arrays(self.cells.read_arrays(f"{name}.safetensors"))
            if content is None or mine is None or true is None:
                continue
            content["latent_error"] = latent_errors(mine[1], true[1])
            if mine[0] is not None and true[0] is not None:
                content["fidelity"] = fidelity_of(mine[0], true[0])
            self.cells.write(f"{name}.json", content)
            self.cells.delete(f"{name}.safetensors")

    def _arrays(self, index: int, key: str) -> Path:
        return self.cells.folder / f"{cell(index, key)}.safetensors"


def entry_key(one: Contender) -> str:
    """A contender's file name in a bench's folder."""
    if isinstance(one, Deferred):
        details = one.details
    else:
        policy = (repr(one.policy),) if isinstance(one, Accelerated) else ()
        details = (*policy, *sorted(map(repr, one.settings.items())))
    return key_of(one.name, one.budget, one.steps, *details)


def split_arrays(arrays: dict[str, np.ndarray] | None) -> tuple[np.ndarray | None, dict[int, np.ndarray]] | None:
    """Sample and latents of a cell's file."""
    if arrays is None:
        return None
    return arrays.get("sample"), {int(name): array for name, array in arrays.items() if name != "sample"}


def _description(one: Contender) -> dict[str, Any]:
    return {"title": one.title, "steps": one.steps, "budget": one.budget, "settings": dict(one.settings)}
