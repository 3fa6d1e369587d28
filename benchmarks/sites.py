"""Fidelity, memory and operations of the sites: last block, modules, some tokens.

Spectrum's table 4 in kind (arXiv 2603.01623), on the bundled pipeline, on prompts and seeds that calibration never saw.

    python -m benchmarks.sites [--prompts 32] [--calibration 8]
"""

from collections.abc import Iterator

import foreseer as fs
from benchmarks.common import asked, sample, write
from benchmarks.learning import CALIBRATION_SEED, STEPS, Bench, captions
from foreseer.evaluate.sampling.cost import count_denoiser

BUDGETS = (14, 10)
PUBLISHED = ("reuse", "taylorseer", "spectrum")
OF_TOKENS = ("toca", "duca")


def policies(kernels: dict[str, fs.Kernel], nfe: int) -> Iterator[tuple[str, fs.Policy]]:
    """What is compared at a budget, with its title."""
    for site, kernel in kernels.items():
        for name in PUBLISHED:
            method = fs.methods.find(name)
            yield method.title, method.policy(STEPS, nfe, site)
        yield "kernel rows, searched steps", fs.learned(kernel, nfe=nfe)
    for name in OF_TOKENS:
        method = fs.methods.find(name)
        yield method.title, method.policy(STEPS, nfe)


def main() -> None:
    given, pipe, options = asked(__doc__, prompts=32, calibration=8)
    held_out = captions(given.prompts, 0)
    kernels = {
        site: fs.calibrate(
            pipe,
            captions(given.calibration, given.prompts),
            num_inference_steps=STEPS,
            seed=CALIBRATION_SEED,
            site=site,
            **options,
        )
        for site in ("last_block", "modules")
    }
    bench = Bench(pipe, options, held_out)
    whole = operations(pipe, held_out[0], options)
    rows = []
    for nfe in BUDGETS:
        for title, policy in policies(kernels, nfe):
            decibels, _ = bench.score(bench.sample(STEPS, policy))
            with fs.accelerate(pipe, policy, strict=True) as handle:
                sample(pipe, held_out[0], options, STEPS, 1)  # the site is found
                spent = operations(pipe, held_out[0], options)
            rows.append(row(title, nfe, handle.record, decibels, spent / whole))
            print(rows[-1], flush=True)
    write("sites", f"python -m benchmarks.sites --prompts {given.prompts} --calibration {given.calibration}", rows)


def operations(pipe, prompt, options) -> int:
    """Operations of the denoiser in one run: matrix products, convolutions and attention."""
    with count_denoiser(pipe) as cost:
        sample(pipe, prompt, options, STEPS, 1)
    return cost.flops


def row(title, nfe, record, decibels, share) -> dict:
    """One line of the table."""
    ((branch, parts),) = record.features.items()
    plan = record.plans[branch]
    return {
        "method": title,
        "site": plan.site,
        "NFE": nfe,
        "PSNR, dB": decibels,
        "speedup in operations": 1 / share,
        "tensors of a feature": len(parts),
        "features held, bytes": plan.plan.explain([part.shape for part in parts]).live_bytes,
        "operations of forecasts": record.forecast_flops,
    }


if __name__ == "__main__":
    main()
