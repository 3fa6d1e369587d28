"""Rollout, refined rows and rows that mix channels: bundled pipeline, 50 steps, unseen prompts.

Every plan of a budget has the same computed steps and is fitted on the same prompts. Cost is in forward passes, counted
at the network, for all prompts together; each line's cost is its own, on top of the line that it starts from.

    python -m benchmarks.fidelity [--fit 8] [--held-out 4] [--prompts 8] [--budgets 9 5] [--cfg 3]

Interrupted, the same command resumes with the next budget.
"""

import argparse
import time
from contextlib import contextmanager

import numpy as np
import torch

import foreseer as fs
from benchmarks.common import bundled, guided, unfinished_rows, write
from benchmarks.learning import CALIBRATION_SEED, STEPS, Bench, captions
from foreseer.evaluate.metrics.similarity import psnr, relative_error
from foreseer.methods.validate import typical_error


@contextmanager
def counted(network):
    """Forward passes of ``network`` and seconds inside the block; a forecast runs no part of the network."""
    cost = {"passes": 0, "seconds": 0.0}

    def add(*args):
        cost["passes"] += 1

    handle = network.proj_out.register_forward_pre_hook(add)
    began = time.process_time()
    try:
        yield cost
    finally:
        cost["seconds"] = time.process_time() - began
        handle.remove()


def calibrated(pipe, prompts, options):
    """The kernel and its cost."""
    with counted(pipe.transformer) as cost:
        kernel = fs.calibrate(pipe, prompts, num_inference_steps=STEPS, seed=CALIBRATION_SEED, **options)
    return kernel, cost


def fitted_plans(pipe, kernel, prompts, held_out, nfe, **options):
    """Name, name of the start, plan and cost of each way to fit rows, all on the same steps."""
    common = {"seed": CALIBRATION_SEED, **options}
    judged = {"held_out": held_out, **common}
    plans = {}

    def fit(name, start, make):
        with counted(pipe.transformer) as cost:
            plans[name] = make()
        return name, start, plans[name], cost

    fitted = prompts[: len(prompts) - held_out]
    yield fit("rollout", "kernel rows", lambda: fs.rollout(pipe, kernel, fitted, nfe=nfe, **common))
    yield fit("refined", "rollout", lambda: fs.refine(pipe, plans["rollout"], prompts, **judged))
    mixing, both = "rollout, mixing", "refined, then mixing"
    yield fit(mixing, "rollout", lambda: fs.mix_channels(pipe, plans["rollout"], prompts, **judged))
    yield fit(both, "refined", lambda: fs.mix_channels(pipe, plans["refined"], prompts, **judged))
    if plans[mixing].mixing is not None:
        yield fit("mixing, then refined", mixing, lambda: fs.refine(pipe, plans[mixing], prompts, **judged))


def measured(bench, policy):
    """Mean PSNR in dB and geometric mean of the relative errors of the final latent, against the full run."""
    made = bench.sample(STEPS, policy)
    pairs = list(zip(made, bench.reference, strict=True))
    decibels = [min(psnr(image, true), 99.0) for (_, image), (_, true) in pairs]
    errors = [relative_error(latent, true) for (latent, _), (true, _) in pairs]
    return float(np.mean(decibels)), typical_error(np.array(errors))


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
    kernel, calibration = calibrated(pipe, training[: given.fit], options)
    bench = Bench(pipe, options, captions(given.prompts, len(training)))
    name = "fidelity" if given.cfg is None else f"fidelity_cfg{given.cfg:g}"
    command = f"python -m benchmarks.fidelity --fit {given.fit} --held-out {given.held_out} --prompts {given.prompts}"
    command += f" --budgets {' '.join(map(str, given.budgets))}"
    command += "" if given.cfg is None else f" --cfg {given.cfg:g}"
    rows = unfinished_rows(name, command)
    done = {row["NFE"] for row in rows}

    def row(nfe, ways, start, policy, cost):
        decibels, error = measured(bench, policy)
        about = policy.provenance if isinstance(policy, fs.Plan) else {}
        rows.append(
            {
                "NFE": nfe,
                "rows": ways,
                "from": start,
                "PSNR, dB": round(decibels, 2),
                "latent error": round(error, 5),
                "expected error": about.get("expected_error", "").split(" ")[0] or None,
                "passes": cost["passes"],
                "seconds": round(cost["seconds"], 1),
                "about": about.get("mixing") or about.get("refined"),
            }
        )
        print(rows[-1], flush=True)

    for nfe in given.budgets:
        if nfe in done:
            continue
        row(nfe, "kernel rows", None, fs.learned(kernel, nfe=nfe), calibration)
        for ways, start, plan, cost in fitted_plans(pipe, kernel, training, given.held_out, nfe, **options):
            row(nfe, ways, start, plan, cost)
        write(name, command, rows, unfinished=True)
    write(name, command, rows)


if __name__ == "__main__":
    main()
