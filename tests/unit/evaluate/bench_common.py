"""A small bench on the bundled pipeline."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field

import foreseer as fs
from foreseer.evaluate.bench import Bench, run_bench
from foreseer.evaluate.contender import Accelerated, Contender, Unaccelerated

STEPS = 6
PROMPTS = ["a red apple on a white background", "a rocket on a purple background"]
OPTIONS = {"height": 64, "width": 64, "max_sequence_length": 16}


def asked(**changed):
    given = {"model": "emoji", "prompts": PROMPTS, "steps": STEPS, "options": OPTIONS, "measures": ["psnr", "ssim"]}
    return Bench(**{**given, **changed})


def contenders():
    return [
        Accelerated("reuse", "Reuse", STEPS, 3, policy=fs.methods.find("reuse").policy(STEPS, 3)),
        Accelerated("taylorseer", "TaylorSeer", STEPS, 4, policy=fs.methods.find("taylorseer").policy(STEPS, 4)),
        Unaccelerated("steps", "Step reduction", 3, 3),
    ]


@dataclass(frozen=True)
class Trouble(Contender):
    """Calls ``before`` ahead of each run; what it raises, the run raises."""

    before: object = field(kw_only=True)

    @contextmanager
    def attached(self, pipe):
        self.before(pipe)
        yield None


def run(pipe, folder, *more, **changed):
    return run_bench(asked(**changed), [*contenders(), *more], pipe, folder)


def figures(results):
    """What must not depend on when or how often a bench was interrupted."""
    return {
        (row.method, row.budget): (row.nfe, row.flops, row.per_prompt, row.latent_error, row.pictures, row.error)
        for row in results.rows
    }
