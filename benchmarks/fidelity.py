"""Rollout, refined rows and rows that mix channels on unseen prompts: the bundled pipeline, 50 steps.

Every plan of a budget has the same computed steps and is fitted on the same prompts. Cost is in forward passes, counted
at the network, for all prompts together; each line's cost is its own, on top of the lines that it starts from.

    python -m benchmarks.fidelity [--fit 8] [--held-out 4] [--prompts 8] [--budgets 9 5] [--cfg 3]
"""

import argparse
import time
from contextlib import contextmanager

import numpy as np
import torch

import foreseer as fs
from benchmarks.common import bundled, guided, write
from benchmarks.learning import CALIBRATION_SEED, STEPS, Bench, captions
from foreseer.evaluate.metrics.similarity import psnr, relative_error


@contextmanager
def counted(module):
    """Forward passes of ``module`` and seconds inside the block."""
    cost = {"passes": 0, "seconds": 0.0}

    def add(*args):
        cost["passes"] += 1

    handle = module.register_forward_pre_hook(add)
    began = time.perf_counter()
    try:
        yield cost
    finally:
        cost["seconds"] = time.perf_counter() - began
        handle.remove()


def fitted_plans(pipe, kernel, prompts, held_out, nfe, **options):
    """Name, plan and cost of each way to fit rows, all on the same computed steps."""
    common = {"seed": CALIBRATION_SEED, **options}
    judged = {"held_out": held_out, **common}
    plans = {}

    def fit(name, make):
        with counted(pipe.transformer) as cost:
            plans[name] = make()
        return name, plans[name], cost

    yield fit("rollout", lambda: fs.rollout(pipe, kernel, prompts[: len(prompts) - held_out], nfe=nfe, **common))
    yield fit("refined", lambda: fs.refine(pipe, plans["rollout"], prompts, **judged))
    yield fit("rollout, mixing", lambda: fs.mix_channels(pipe, plans["rollout"], prompts, **judged))
    yield fit("refined, then mixing", lambda: fs.mix_channels(pipe, plans["refined"], prompts, **judged))
    if plans["rollout, mixing"].mixing is not None:
        yield fit("mixing, then refined", lambda: fs.refine(pipe, plans["rollout, mixing"], prompts, **judged))


def measured(bench, policy):
    """Mean PSNR in dB and root mean square relative error of the final latent, against the full run."""
    made = bench.sample(STEPS, policy)
    pairs = list(zip(made, bench.reference, strict=True))
    decibels = [min(psnr(image, true), 99.0) for (_, image), (_, true) in pairs]
    errors = [relative_error(latent, true) for (latent, _), (true, _) in pairs]
    return float(np.mean(decibels)), float(np.sqrt(np.mean(np.square(errors))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--budgets", type=int, nargs="+", default=[9, 5])
    parser.add_argument("--cfg", type=float, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipe, _, options = bundled()
    options.pop("num_inference_steps")
    options = guided(options, given.cfg)
    training = captions(given.fit + given.held_out, 0)
    kernel = fs.calibrate(pipe, training[: given.fit], num_inference_steps=STEPS, seed=CALIBRATION_SEED, **options)
    bench = Bench(pipe, options, captions(given.prompts, len(training)))
    rows = []
    for nfe in given.budgets:
        for name, plan, cost in fitted_plans(pipe, kernel, training, given.held_out, nfe, **options):
            decibels, error = measured(bench, plan)
            rows.append(
                {
                    "NFE": nfe,
                    "rows": name,
                    "PSNR, dB": round(decibels, 2),
                    "latent error": round(error, 5),
                    "expected error": plan.provenance.get("expected_error", "").split(" ")[0] or None,
                    "passes": cost["passes"],
                    "seconds": round(cost["seconds"], 1),
                    "about": plan.provenance.get("mixing") or plan.provenance.get("refined"),
                }
            )
            print(rows[-1], flush=True)
    name = "fidelity" if given.cfg is None else f"fidelity_cfg{given.cfg:g}"
    command = f"python -m benchmarks.fidelity --fit {given.fit} --held-out {given.held_out} --prompts {given.prompts}"
    command += f" --budgets {' '.join(map(str, given.budgets))}"
    write(name, command + ("" if given.cfg is None else f" --cfg {given.cfg:g}"), rows)


if __name__ == "__main__":
    main()
