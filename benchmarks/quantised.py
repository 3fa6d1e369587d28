"""Rows on quantised and noisy networks: bundled pipeline, 50 steps, unseen captions.

Each network is compared with its own full run. The first line of a network is the error between two of its full runs:
the floor, which no row can go below. Noise is measured at the inputs of one float32 run.

    python -m benchmarks.quantised [--prompts 8] [--calibration 8] [--budgets 9]

Interrupted, the same command resumes with the next network.
"""

import argparse
from statistics import fmean

import torch

import foreseer as fs
from benchmarks.common import bundled, sample, unfinished_rows, write
from benchmarks.learning import CALIBRATION_SEED, STEPS, Bench, captions
from benchmarks.networks import RecordedInputs, networks
from foreseer.methods.train_l2p import train_l2p
from foreseer.schedule import Optimal

SENSITIVITY_PROMPTS = 2


def policies(pipe, prompts, original, kernel, noise, nfe, options):
    """Name and policy of every row; ``original``: of float32, ``noise``: of this network."""
    taylor, l2p = fs.forecast.TaylorSeer(order=2), train_l2p(original)
    yield "TaylorSeer, searched steps", fs.Policy(Optimal(original, nfe, forecaster=taylor), taylor)
    yield "Spectrum", fs.methods.find("spectrum").policy(STEPS, nfe, "output")
    yield "L2P, searched steps", fs.Policy(Optimal(original, nfe, forecaster=l2p), l2p)
    yield "kernel rows of float32", fs.learned(original, nfe=nfe)
    yield "kernel rows of float32, noise counted", fs.learned(original.with_noise(noise), nfe=nfe)
    yield "kernel rows", fs.learned(kernel, nfe=nfe)
    common = {"seed": CALIBRATION_SEED, **options}
    plan = fs.rollout(pipe, kernel, prompts, nfe=nfe, **common)
    yield "rollout", plan
    yield "refined", fs.refine(pipe, plan, prompts, held_out=max(1, len(prompts) // 4), iterations=1, **common)


def gains(policy, grid):
    """Mean L1 and L2 gain over skipped steps."""
    plan = policy if isinstance(policy, fs.Plan) else policy.compile(grid)
    forecasts = plan.explain().forecasts
    gained = {"L1": [row.l1_gain for row in forecasts], "L2": [row.l2_gain for row in forecasts]}
    return {f"{name} gain": round(fmean(values), 3) for name, values in gained.items()}


def rows_of_network(name, pipe, given, original, noise, options):
    """The rows of one network, its floor first."""
    training = captions(given.calibration, 0)
    bench = Bench(pipe, options, captions(given.prompts, given.calibration))
    per_pass, fresh = noise
    about = {"network": name, "noise per pass": round(per_pass, 5), "fresh noise": round(fresh, 5)}

    def row(method, nfe, made, gained):
        decibels, latent = bench.score(made)
        measured = {"PSNR, dB": round(decibels, 2), "latent error": round(latent, 5)}
        result = {**about, "method": method, "NFE": nfe, **measured, "L1 gain": None, "L2 gain": None, **gained}
        print(result, flush=True)
        return result

    rows = [row("two full runs", STEPS, bench.sample(STEPS), {})]
    settings = {"num_inference_steps": STEPS, "seed": CALIBRATION_SEED, "sensitivity_prompts": SENSITIVITY_PROMPTS}
    kernel = original if name == "float32" else fs.calibrate(pipe, training, **settings, **options)
    for nfe in given.budgets:
        for method, policy in policies(pipe, training, original, kernel, fresh, nfe, options):
            rows.append(row(method, nfe, bench.sample(STEPS, policy), gains(policy, original.grid)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--calibration", type=int, default=8)
    parser.add_argument("--budgets", type=int, nargs="+", default=[9])
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipe, (prompt, *_), options = bundled()
    options.pop("num_inference_steps")
    command = f"python -m benchmarks.quantised --prompts {given.prompts} --calibration {given.calibration}"
    command += f" --budgets {' '.join(map(str, given.budgets))}"
    rows = unfinished_rows("quantised", command)
    done, network = {row["network"] for row in rows}, pipe.transformer
    settings = {"num_inference_steps": STEPS, "seed": CALIBRATION_SEED, "sensitivity_prompts": SENSITIVITY_PROMPTS}
    original = fs.calibrate(pipe, captions(given.calibration, 0), **settings, **options)
    inputs = RecordedInputs(network, lambda: sample(pipe, prompt, options, STEPS, CALIBRATION_SEED))
    for name, served in networks(network):
        if name not in done:
            noise, pipe.transformer = inputs.noise_of(served), served
            rows += rows_of_network(name, pipe, given, original, noise, options)
            write("quantised", command, rows, unfinished=True)
    write("quantised", command, rows)


if __name__ == "__main__":
    main()
