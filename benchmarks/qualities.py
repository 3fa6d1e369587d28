"""What each quality level computes and keeps: the bundled pipeline, 50 steps, kernel rows.

python -m benchmarks.qualities [--prompts 32] [--calibration 24]
"""

import numpy as np

import foreseer as fs
from benchmarks.common import asked, write
from benchmarks.few_steps import decibels
from benchmarks.learning import CALIBRATION_SEED, STEPS, Bench, captions
from foreseer.methods.quality import QUALITIES
from foreseer.methods.resolve import policy_for


def main() -> None:
    given, pipe, options = asked(__doc__, prompts=32, calibration=24)
    training, unseen = captions(given.calibration, 0), captions(given.prompts, given.calibration)
    kernel = fs.calibrate(pipe, training, num_inference_steps=STEPS, seed=CALIBRATION_SEED, **options)
    bench, rows = Bench(pipe, options, unseen), []
    for quality, allowed in QUALITIES.items():
        if allowed is None:
            continue
        policy = policy_for(kernel, quality=quality)
        drawn = bench.sample(STEPS, policy)
        found = decibels(drawn, bench.reference)
        rows.append(
            {
                "quality": quality,
                "allowed error": allowed,
                "NFE": policy.compile(kernel.grid).nfe,
                "latent error": round(bench.score(drawn)[1], 5),
                "PSNR, dB": round(float(found.mean()), 2),
                "worst tenth below, dB": round(float(np.quantile(found, 0.1)), 2),
            }
        )
    command = f"python -m benchmarks.qualities --prompts {given.prompts} --calibration {given.calibration}"
    write("qualities", command, rows)


if __name__ == "__main__":
    main()
