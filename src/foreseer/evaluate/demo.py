"""`foreseer demo`: the bundled pipeline, every method at about five times fewer evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foreseer import zoo
from foreseer.evaluate.compare import Comparison, compare
from foreseer.evaluate.contender import Accelerated, Contender, Unaccelerated
from foreseer.evaluate.environment import environment
from foreseer.evaluate.report import write_html, write_sheet
from foreseer.evaluate.table_text import finite
from foreseer.kernel import Kernel
from foreseer.methods import METHODS
from foreseer.methods.learned import learned
from foreseer.pipelines import load_pipeline, split_sampling
from foreseer.plan import Plan, Policy

SEED = 2026
MOVABLE = ("output", "last_block")  # sites of methods that are rows alone, the same wherever a feature is taken


@dataclass(frozen=True)
class Demo:
    """What the demo is asked for.

    Attributes:
        prompts: how many of the bundled prompts to draw.
        steps: of the reference.
        nfe: evaluations of every method.
        site: where features are taken, but for methods that work at modules, tokens or ranges of blocks.
        dtype: of the weights; by default float32 on a CPU.
        threads: CPU threads. Two on one free core are many times slower than one, and the model is small.
    """

    prompts: int = 6
    steps: int = 50
    nfe: int = 10
    site: str = "output"
    dtype: str | None = None
    threads: int = 1

    def contenders(self) -> list[Contender]:
        """What was learned for the bundled pipeline first, then every method that needs no file; all at one NFE."""
        found = self._learned() if self.site == "output" else []
        for method in METHODS.values():
            if method.reduces_steps:
                found.append(Unaccelerated(method.name, method.title, self.nfe, self.nfe))
            elif method.forecaster is not None and method.gate is None:  # a gate's budget takes trial runs
                # What a method does inside the network it does there: at another site it would be plain reuse.
                site = self.site if method.site in MOVABLE else method.site
                policy = method.policy(self.steps, self.nfe, site)
                found.append(Accelerated(method.name, method.title, self.steps, self.nfe, policy=policy))
        return found

    def _learned(self) -> list[Contender]:
        policy = learned(Kernel.load(zoo.kernel_path()), nfe=self.nfe)
        found: list[Contender] = [Accelerated("learned", "Learned rows", self.steps, self.nfe, policy=policy)]
        if self.steps == 50 and zoo.plan_path(nfe=self.nfe).is_file():
            plan = Policy.from_plan(Plan.load(zoo.plan_path(nfe=self.nfe)))
            found.insert(0, Accelerated("rollout", "Learned rollout", self.steps, self.nfe, policy=plan))
        return found

    def runs(self) -> int:
        """How many pictures are drawn."""
        return self.prompts * (len(self.contenders()) + 1)


def run_demo(demo: Demo, progress: Callable[[str], None] = lambda words: None) -> Comparison:
    """Draw the bundled prompts once with every step and once a method."""
    import torch

    torch.set_num_threads(demo.threads)
    contenders = demo.contenders()
    pipe, sampling = load_pipeline("emoji", demo.dtype)
    pipe.set_progress_bar_config(disable=True)
    prompts, options = split_sampling(sampling)
    chosen = [prompts[index % len(prompts)] for index in range(demo.prompts)]
    options.pop("num_inference_steps", None)
    return compare(pipe, chosen, contenders, steps=demo.steps, seed=SEED, options=options, progress=progress)


def write_demo(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Write page, picture and figures into ``folder``; give their paths.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"page": folder / "demo.html", "picture": folder / "demo.png", "figures": folder / "demo.json"}
    heading = f"Foreseer: {comparison.results[0].nfe} of {comparison.steps} evaluations"
    about = environment() | {"model": zoo.NAMES[0]}
    write_html(comparison, paths["page"], heading, about)
    write_sheet(comparison, paths["picture"])
    figures = {"environment": about, "prompts": comparison.prompts, "rows": comparison.rows()}
    # An infinite PSNR (equal pictures) has no number in JSON: it is written as null.
    paths["figures"].write_text(json.dumps(finite(figures), indent=1, allow_nan=False) + "\n")
    return paths
