"""Every method at equal NFE on prompts that calibration never saw: the bundled pipeline, 50 steps.

Fidelity only (no timing). Published methods run at their own schedules for the budget; learned ones on searched steps.

    python -m benchmarks.learning [--prompts 64] [--calibration 64] [--cfg 3]

``--cfg 1`` is no guidance, more is classifier-free guidance by two forward passes; without it, the default guidance,
and refined rows besides.
"""

import argparse
import statistics
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

import foreseer as fs
from benchmarks.common import bundled, guided, latents_of, write
from foreseer.evaluate.metrics.similarity import psnr, relative_error
from foreseer.evaluate.peers.solvers import TITLES, Solver, SolverSwap
from foreseer.methods import L2P_STEPS
from foreseer.methods.train_l2p import train_l2p
from foreseer.schedule import Explicit, Optimal

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from icons import COLOUR_NAMES, caption, read_vocabulary

STEPS = 50
BATCH = 16
BUDGETS = (14, 11, 9, 7, 6, 5)
MOST_REFINED = 11  # computed steps; an iteration takes some 470 forward passes per prompt at 14, 230 at 11
CALIBRATION_SEED, HELD_OUT_SEED = 10_000, 777_000
SOLVERS: tuple[Solver, ...] = ("dpm-solver", "unipc")


def captions(count: int, offset: int) -> list[str]:
    """Shuffled captions of the bundled pipeline's whole vocabulary, from ``offset`` on."""
    pairs = [(name, colour) for _, name in read_vocabulary() for colour in COLOUR_NAMES]
    order = np.random.default_rng(0).permutation(len(pairs))
    return [caption(*pairs[index]) for index in order[offset : offset + count]]


class Bench:
    """The held-out prompts, and what sampling them gives."""

    def __init__(self, pipe, options, prompts, steps=STEPS):
        self.pipe, self.options, self.prompts, self.steps = pipe, options, prompts, steps
        self.reference = self.sample(steps)

    def sample(self, steps, policy=None):
        """Latents and pictures of all prompts, ``BATCH`` at a time."""
        made = []
        arguments = {**self.options, "num_inference_steps": steps, "output_type": "latent"}
        for start in range(0, len(self.prompts), BATCH):
            prompts = self.prompts[start : start + BATCH]
            if "negative_prompt" in arguments:
                arguments["negative_prompt"] = [self.options["negative_prompt"]] * len(prompts)
            seeds = range(HELD_OUT_SEED + start, HELD_OUT_SEED + start + len(prompts))
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            attached = fs.accelerate(self.pipe, policy, strict=True) if policy is not None else nullcontext()
            with attached:
                latents = latents_of(self.pipe(prompts, generator=generators, **arguments))
            made.extend(zip(latents.numpy(), self.decode(latents), strict=True))
        return made

    @torch.no_grad()
    def decode(self, latent):
        """Decode packed latents to pictures in [0, 1]."""
        height, width = self.options["height"], self.options["width"]
        unpacked = self.pipe._unpack_latents(latent, height, width, self.pipe.vae_scale_factor)
        vae = self.pipe.vae
        image = vae.decode(unpacked / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
        return self.pipe.image_processor.postprocess(image, output_type="np")

    def score(self, made, reference=None):
        """Mean PSNR in dB and median relative error of the final latent."""
        pairs = list(zip(made, reference or self.reference, strict=True))
        decibels = [min(psnr(image, true), 99.0) for (_, image), (_, true) in pairs]
        errors = [relative_error(latent, true) for (latent, _), (true, _) in pairs]
        return statistics.mean(decibels), statistics.median(errors)


def published_policies(budget):
    """Fixed formulas at their own schedules, and the default method."""
    return {
        name: fs.methods.find(name).policy(STEPS, budget, "output")
        for name in ("reuse", "taylorseer", "newton", "adams-bashforth", "spectrum", "generic")
    }


def learned_policies(pipe, options, kernel, few, prompts, budget):
    """L2P, kernel rows and rollout, at L2P's steps and on searched ones; ``few`` from few prompts."""
    l2p, rows = train_l2p(kernel), fs.forecast.KernelRows(kernel)
    taylor = fs.forecast.TaylorSeer(order=2)
    policies = {
        "TaylorSeer, searched steps": fs.Policy(Optimal(kernel, budget, forecaster=taylor), taylor),
        "L2P, searched steps": fs.Policy(Optimal(kernel, budget, forecaster=l2p), l2p),
        "kernel rows, searched steps": fs.learned(kernel, nfe=budget),
        "rollout, searched steps": rolled(pipe, kernel, prompts, budget, options),
        "kernel rows, 4 prompts": fs.learned(few, nfe=budget),
        "rollout, 4 prompts": rolled(pipe, few, prompts[: few.prompts], budget, options),
    }
    steps = next((chosen for chosen in L2P_STEPS.values() if len(chosen) == budget), None)
    if steps is not None:
        policies = {
            "L2P as published": fs.Policy(Explicit(steps, of=STEPS), l2p),
            "kernel rows, L2P's steps": fs.Policy(Explicit(steps, of=STEPS), rows),
            **policies,
        }
    return policies


def rolled(pipe, kernel, prompts, budget, options, **more):
    """A rollout plan as a policy."""
    plan = fs.rollout(pipe, kernel, prompts, nfe=budget, seed=CALIBRATION_SEED, **options, **more)
    return fs.Policy.from_plan(plan)


def refined(pipe, kernel, prompts, budget, options):
    """A rollout from three quarters of the prompts, refined; the others are held out."""
    held_out = max(1, len(prompts) // 4)
    plan = fs.rollout(pipe, kernel, prompts[:-held_out], nfe=budget, seed=CALIBRATION_SEED, **options)
    plan = fs.refine(pipe, plan, prompts, held_out=held_out, iterations=2, seed=CALIBRATION_SEED, **options)
    print(f"{budget:>3} NFE  {plan.provenance['refined']}", flush=True)
    return fs.Policy.from_plan(plan)


def run_solvers(bench, budget):
    """The same number of forward passes by fewer steps, of the pipeline's own solver and of better ones."""
    yield f"Euler, {budget} steps", bench.score(bench.sample(budget))
    for name in SOLVERS:
        with SolverSwap(name, TITLES[name], budget, solver=name).attached(bench.pipe):
            yield f"{TITLES[name]}, {budget} steps", bench.score(bench.sample(budget))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--cfg", type=float, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipe, _, options = bundled()
    options.pop("num_inference_steps")
    options = guided(options, given.cfg)
    training = captions(given.calibration, 0)
    kernel, few = (
        fs.calibrate(pipe, some, num_inference_steps=STEPS, seed=CALIBRATION_SEED, **options)
        for some in (training, training[:4])
    )
    bench = Bench(pipe, options, captions(given.prompts, given.calibration))
    cells: dict[str, dict[int, tuple[float, float]]] = {}
    for budget in given.budgets:
        policies = published_policies(budget) | learned_policies(pipe, options, kernel, few, training, budget)
        if given.cfg is None and budget <= MOST_REFINED:
            policies["refined, searched steps"] = refined(pipe, kernel, training, budget, options)
        scores = dict(run_solvers(bench, budget))
        scores |= {name: bench.score(bench.sample(STEPS, policy)) for name, policy in policies.items()}
        for name, score in scores.items():
            cells.setdefault(name.split(f", {budget} steps")[0], {})[budget] = score
            print(f"{budget:>3} NFE  {name:<32} {score[0]:6.2f} dB  latent {score[1]:.4f}", flush=True)
    rows = [
        {"method": name}
        | {f"{budget} NFE, dB": round(by[budget][0], 2) if budget in by else None for budget in given.budgets}
        | {f"{budget} NFE, latent": round(by[budget][1], 5) if budget in by else None for budget in given.budgets}
        for name, by in cells.items()
    ]
    name = "learning" if given.cfg is None else f"learning_cfg{given.cfg:g}"
    command = f"python -m benchmarks.learning --prompts {given.prompts} --calibration {given.calibration}"
    write(name, command + ("" if given.cfg is None else f" --cfg {given.cfg:g}"), rows)


if __name__ == "__main__":
    main()
