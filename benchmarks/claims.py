"""What a kernel promises beyond its own run, on prompts and seeds that calibration never saw.

Other step counts and image to image against kernels measured there; expected against measured errors of random plans;
a finer teacher.

    python -m benchmarks.claims [--prompts 32] [--calibration 32]
"""

import statistics

import numpy as np
import torch
from diffusers import FluxImg2ImgPipeline

import foreseer as fs
from benchmarks.common import asked, write
from benchmarks.learning import CALIBRATION_SEED, STEPS, Bench, captions
from foreseer.evaluate.metrics.similarity import psnr, relative_error
from foreseer.kernel.expected import final_errors
from foreseer.schedule import Explicit

NFE = 9
STRENGTH = 0.6


def other_step_counts(pipe, options, kernel, training, held_out):
    """A 50-step kernel at 28 and 20 steps, and a kernel measured there."""
    for steps in (28, 20):
        own = fs.calibrate(pipe, training, num_inference_steps=steps, seed=CALIBRATION_SEED, **options)
        bench = Bench(pipe, options, held_out, steps)
        moved, measured = (bench.score(bench.sample(steps, fs.learned(which, nfe=NFE)))[0] for which in (kernel, own))
        yield {"claim": f"kernel of 50 steps at {NFE} of {steps}, dB", "found": moved, "against": measured}


def image_to_image(pipe, options, kernel, training, held_out):
    """A 50-step kernel under strength 0.6, and a kernel measured there."""
    other = FluxImg2ImgPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    start = pipe(held_out[0], num_inference_steps=STEPS, generator=torch.Generator().manual_seed(1), **options).images[
        0
    ]
    options = {**options, "image": start, "strength": STRENGTH}
    own = fs.calibrate(other, training, num_inference_steps=STEPS, seed=CALIBRATION_SEED, **options)
    bench = Bench(other, options, held_out)
    moved, measured = (bench.score(bench.sample(STEPS, fs.learned(which, nfe=6)))[0] for which in (kernel, own))
    yield {"claim": "kernel of text to image at strength 0.6, 6 NFE, dB", "found": moved, "against": measured}


def ranking(bench, kernel, plans=40):
    """Spearman correlation of expected and measured final errors over random plans of 5 to 15 NFE."""
    generator = np.random.default_rng(5)
    rows = fs.forecast.KernelRows(kernel)
    expected, measured = [], []
    for _ in range(plans):
        nfe = int(generator.integers(5, 16))
        steps = (0, *sorted((1 + generator.choice(STEPS - 1, nfe - 1, replace=False)).tolist()))
        policy = fs.Policy(Explicit(steps, of=STEPS), rows)
        expected.append(float(np.mean(final_errors(kernel, policy.compile(kernel.grid).rows))))
        pairs = zip(bench.sample(STEPS, policy), bench.reference, strict=True)
        measured.append(statistics.mean(relative_error(one[0], true[0]) for one, true in pairs))
    ranks = [np.argsort(np.argsort(values)) for values in (expected, measured)]
    yield {
        "claim": f"rank correlation of expected and measured error, {plans} random plans",
        "found": float(np.corrcoef(*ranks)[0, 1]),
        "against": 0.9,
    }


def finer_teacher(pipe, options, kernel, training, bench):
    """Distance from a 400-step run: of the 50-step run, and of 11 forward passes taught by 400 steps."""
    exact = bench.sample(8 * STEPS)
    own = statistics.mean(psnr(one[1], true[1]) for one, true in zip(bench.reference, exact, strict=True))
    plan = fs.rollout(pipe, kernel, training, nfe=11, teacher_steps=8 * STEPS, seed=CALIBRATION_SEED, **options)
    taught = bench.score(bench.sample(STEPS, fs.Policy.from_plan(plan)), exact)[0]
    yield {
        "claim": "11 NFE taught by 400 steps, dB from the 400-step run (against: 50 steps)",
        "found": taught,
        "against": own,
    }


def main() -> None:
    given, pipe, options = asked(__doc__, prompts=32, calibration=32)
    training, held_out = captions(given.calibration, 0), captions(given.prompts, given.calibration)
    kernel = fs.calibrate(pipe, training, num_inference_steps=STEPS, seed=CALIBRATION_SEED, **options)
    small = Bench(pipe, options, held_out[:8])
    rows = [
        *other_step_counts(pipe, options, kernel, training, held_out),
        *image_to_image(pipe, options, kernel, training, held_out[:16]),
        *ranking(small, kernel),
        *finer_teacher(pipe, options, kernel, training[:16], Bench(pipe, options, held_out[:16])),
    ]
    write("claims", f"python -m benchmarks.claims --prompts {given.prompts} --calibration {given.calibration}", rows)


if __name__ == "__main__":
    main()
