"""A small bench on the bundled pipeline."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field

import foreseer as fs
from foreseer.evaluate.bench.bench import Bench, run_bench
from foreseer.evaluate.entries.base import Entry, PlainEntry, PolicyEntry

STEPS = 6
PROMPTS = ["a red apple on a white background", "a rocket on a purple background"]
OPTIONS = {"height": 64, "width": 64, "max_sequence_length": 16}


def small_bench(**changed):
    given = {"model": "emoji", "prompts": PROMPTS, "steps": STEPS, "options": OPTIONS, "measures": ["psnr", "ssim"]}
    return Bench(**{**given, **changed})


def entries():
    return [
        PolicyEntry("reuse", "Reuse", STEPS, 3, policy=fs.methods.find("reuse").policy(STEPS, 3)),
        PolicyEntry("taylorseer", "TaylorSeer", STEPS, 4, policy=fs.methods.find("taylorseer").policy(STEPS, 4)),
        PlainEntry("steps", "Step reduction", 3, 3),
    ]


@dataclass(frozen=True)
class Trouble(Entry):
    """Entry that calls ``before`` ahead of each run; its errors are the run's."""

    before: object = field(kw_only=True)

    @contextmanager
    def attached(self, pipe):
        self.before(pipe)
        yield None


def run(pipe, folder, *more, **changed):
    return run_bench(small_bench(**changed), [*entries(), *more], pipe, folder)


def figures(results):
    """The figures that must not depend on interruptions."""
    return {
        (row.method, row.budget): (row.nfe, row.flops, row.per_prompt, row.latent_error, row.pictures, row.error)
        for row in results.rows
    }
