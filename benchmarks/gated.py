"""The forecast-error gate against the fixed optimal schedule, at equal rows and mean NFE.

Prompts and seeds that calibration never saw, one image per run: the bundled pipeline, 50 steps. A fixed schedule
computes a whole number of steps; between two numbers its PSNR is interpolated for each image. Hard images are found in
three ways: by the fixed schedule's PSNR, by the gate's, and by that of Euler's method with fewer steps.

    python -m benchmarks.gated [--prompts 64] [--calibration 64] [--kernel FILE]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import foreseer as fs
from benchmarks.common import bundled, latents_of, write
from benchmarks.learning import CALIBRATION_SEED, HELD_OUT_SEED, STEPS, Bench, captions
from foreseer.evaluate.metrics.similarity import psnr, relative_error

BUDGETS = (9, 12)
FIXED = (8, 9, 10, 11, 12, 13)
EULER = 10
MAX_NFE = 15
TARGETS = (0.02,)
FIFTH = 0.2


def decibels(bench, made):
    """PSNR of each image."""
    return np.array([min(psnr(image, true), 99.0) for (_, image), (_, true) in zip(made, bench.reference, strict=True)])


def errors(bench, made):
    """Relative error of each final latent."""
    pairs = zip(made, bench.reference, strict=True)
    return np.array([relative_error(latent, true) for (latent, _), (true, _) in pairs])


def run_gated(bench, policy):
    """Latents and pictures, one image a run, and the forward passes that each took."""
    made, spent = [], []
    arguments = {**bench.options, "num_inference_steps": STEPS, "output_type": "latent"}
    with fs.accelerate(bench.pipe, policy, strict=True) as handle:
        for index, prompt in enumerate(bench.prompts):
            generator = torch.Generator().manual_seed(HELD_OUT_SEED + index)
            latent = latents_of(bench.pipe(prompt, generator=generator, **arguments))
            made.append((latent[0].numpy(), bench.decode(latent)[0]))
            spent.append(handle.record.nfe)
    return made, np.array(spent)


def hardest(scores):
    """The fifth with the least PSNR."""
    return np.argsort(scores)[: round(FIFTH * len(scores))]


def interpolated(fixed, nfe):
    """PSNR of each image under a fixed schedule of ``nfe`` forward passes, not whole."""
    least = min(max(int(nfe), FIXED[0]), FIXED[-1] - 1)
    share = nfe - least
    return (1 - share) * fixed[least] + share * fixed[least + 1]


def compare(name, asked, spent, found, *, fixed, euler, error):
    """Row of the table; differences are the gate's PSNR minus the fixed schedule's at the same mean NFE."""
    against = interpolated(fixed, float(spent.mean()))
    row = {
        "policy": name,
        "asked": asked,
        "NFE": float(spent.mean()),
        "spread": float(spent.std()),
        "least": int(spent.min()),
        "most": int(spent.max()),
        "latent error": float(np.sqrt(np.mean(error**2))),
        "dB": float(found.mean()),
        "fixed, dB": float(against.mean()),
    }
    for by, scores in (("fixed", against), ("gate", found), ("Euler", euler)):
        chosen = hardest(scores)
        gain = found[chosen] - against[chosen]
        row |= {f"hardest by {by}": float(gain.mean()), f"+- {by}": float(gain.std() / np.sqrt(len(gain)))}
    own = [scores[hardest(scores)].mean() for scores in (found, against)]
    return row | {"each its own hardest": float(own[0] - own[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--kernel", type=Path, help="file to keep the kernel in; read where it is there already")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipe, _, options = bundled()
    options.pop("num_inference_steps")
    kernel = calibrated(pipe, options, given.calibration, given.kernel)
    bench = Bench(pipe, options, captions(given.prompts, given.calibration))
    euler = decibels(bench, bench.sample(EULER))
    fixed = {nfe: decibels(bench, bench.sample(STEPS, fs.learned(kernel, nfe=nfe))) for nfe in FIXED}
    for nfe in FIXED:
        worst = fixed[nfe][hardest(fixed[nfe])]
        print(f"fixed, {nfe} NFE: {fixed[nfe].mean():.2f} dB, hardest fifth {worst.mean():.2f}", flush=True)
    asked: list[tuple[str, float, dict[str, Any]]] = [
        (f"gate, trust {trust:g}", nfe, {"nfe": nfe, "trust": trust}) for trust in (1, 0.5, 0) for nfe in BUDGETS
    ]
    asked += [("gate, max_error", error, {"max_error": error}) for error in TARGETS]
    rows = []
    for name, target, setting in asked:
        made, spent = run_gated(bench, fs.gated(kernel, max_nfe=MAX_NFE, **setting))
        scores, error = decibels(bench, made), errors(bench, made)
        rows.append(compare(name, target, spent, scores, fixed=fixed, euler=euler, error=error))
        print(rows[-1], flush=True)
    write("gated", f"python -m benchmarks.gated --prompts {given.prompts} --calibration {given.calibration}", rows)


def calibrated(pipe, options, count, path):
    """The kernel of the first captions, read from ``path`` where it is kept there."""
    if path is not None and path.exists():
        return fs.Kernel.load(path)
    prompts = captions(count, 0)
    kernel = fs.calibrate(pipe, prompts, num_inference_steps=STEPS, seed=CALIBRATION_SEED, **options)
    if path is not None:
        kernel.save(path)
    return kernel


if __name__ == "__main__":
    main()
