"""Preset of the bench that ``foreseer demo`` runs: the bundled model, a few methods at one budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from foreseer import zoo
from foreseer.evaluate.bench.prepare import BenchRequest, PreparedBench, compare_methods
from foreseer.evaluate.bench.selection import DEFAULT_METHODS, Selection
from foreseer.methods import METHODS

MODEL = "emoji"
SEED = 2026
PLAN_STEPS = 50  # steps of the bundled plans
SOLVERS = ("unipc", "dpm-solver", "heun")
MEASURES = ("psnr", "ssim")


@dataclass(frozen=True)
class Demo:
    """Options of the demo.

    Attributes:
        prompts: number of prompts, from the first of the model's ``sampling.json``.
        steps: steps of the reference.
        nfe: computed steps of every method.
        site: site of the methods that differ in their rows only.
        dtype: dtype of the weights; by default float32 on a CPU.
        everything: whether to run every method that needs neither a file nor trial runs.
    """

    prompts: int = 6
    steps: int = 50
    nfe: int = 10
    site: str = "output"
    dtype: str | None = None
    everything: bool = False

    def prepare(self) -> PreparedBench:
        """Load the model and make the entries, the learned one first."""
        examples = zoo.sampling(zoo.path(MODEL))["prompts"]
        request = BenchRequest(
            prompts=[examples[index % len(examples)] for index in range(self.prompts)],
            steps=self.steps,
            seed=SEED,
            measures=MEASURES,
            dtype=self.dtype,
            command=f"foreseer demo --prompts {self.prompts} --steps {self.steps} --nfe {self.nfe}",
        )
        kernel = zoo.kernel_path(MODEL)
        selection = Selection(0, (), self.methods(), site=self.site, l2p_kernel=kernel)
        prepared = compare_methods(request, MODEL, selection, lambda steps: [self.nfe])
        bench = replace(prepared.bench, title=f"Foreseer: {self.nfe} of {self.steps} steps computed")
        return replace(prepared, bench=bench)

    def methods(self) -> list[str]:
        """List the methods to run: learned rows at the output site, then others' methods."""
        names = list(DEFAULT_METHODS)
        if self.everything:
            names += [name for name, method in METHODS.items() if method.gate is None] + list(SOLVERS)
        if self.site != "output":
            return list(dict.fromkeys(names))
        plan = zoo.plan_path(MODEL, self.nfe)
        learned = f"plan:{plan}" if self.steps == PLAN_STEPS and plan.is_file() else f"kernel:{zoo.kernel_path(MODEL)}"
        return list(dict.fromkeys([learned, *names]))
