"""Realised speedup of the denoising loop, and what one forecast costs.

Each round runs the reference and every setting once, in an order that turns; ratios are taken within a round, and their
median over rounds is reported. Batch 1, output site.

    python -m benchmarks.speed [--rounds 15] [--threads 1] [--cfg 3]
"""

import argparse
import statistics

import torch

import foreseer as fs
from benchmarks.common import bundled, guided, sample, write
from foreseer.evaluate.sampling.timing import time_loop

STEPS = 50
SETTINGS = [(method, nfe) for method in ("reuse", "taylorseer", "spectrum") for nfe in (25, 14, 10, 7)]


def timed(pipe, prompt, options, policy):
    """Seconds of one denoising loop, and the record of its run."""
    if policy is None:
        with time_loop(pipe) as loop:
            sample(pipe, prompt, options, STEPS, seed=1)
        return loop.seconds, None
    with fs.accelerate(pipe, policy, strict=True) as handle, time_loop(pipe) as loop:
        sample(pipe, prompt, options, STEPS, seed=1)
    return loop.seconds, handle.record


def measure(rounds: int, cfg: float | None) -> list[dict]:
    """One row a setting."""
    pipe, prompts, options = bundled()
    options = guided(options, cfg)
    policies = {key: fs.methods.find(key[0]).policy(STEPS, key[1], site="output") for key in SETTINGS}
    order = [None, *SETTINGS]
    seconds = {key: [] for key in order}
    forecast = {key: [] for key in SETTINGS}
    for key in order:
        timed(pipe, prompts[0], options, policies.get(key))
    for index in range(rounds):
        for turn in range(len(order)):
            key = order[(turn + index) % len(order)]
            elapsed, record = timed(pipe, prompts[0], options, policies.get(key))
            seconds[key].append(elapsed)
            if record is not None:
                calls = sum(len(steps) for steps in record.forecast.values())
                forecast[key].append(record.forecast_seconds / calls)
    branches = 2 if cfg is not None else 1
    forward = [whole / STEPS / branches for whole in seconds[None]]
    rows = []
    for key in SETTINGS:
        speedup = statistics.median(a / b for a, b in zip(seconds[None], seconds[key], strict=True))
        rows.append(
            {
                "method": key[0],
                "NFE": key[1],
                "speedup": speedup,
                "T / NFE": STEPS / key[1],
                "realised": speedup * key[1] / STEPS,
                "forecast / forward": statistics.median(a / b for a, b in zip(forecast[key], forward, strict=True)),
                "forward, ms": 1e3 * statistics.median(forward),
                "guidance": cfg or 1.0,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cfg", type=float, default=None, help="true_cfg_scale: two forwards a step")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    command = f"python -m benchmarks.speed --rounds {given.rounds} --threads {given.threads}"
    if given.cfg is None:
        write("speed", command, measure(given.rounds, None))
    else:
        write("speed_cfg", f"{command} --cfg {given.cfg:g}", measure(given.rounds, given.cfg))


if __name__ == "__main__":
    main()
