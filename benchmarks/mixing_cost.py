"""What channel mixing costs at skipped steps, at FLUX.1-dev's output shape and the bundled model's.

The same plan with and without mixing goes through 50 steps of which ten are computed; rows use all features so far.
A round runs both, in an order that turns; the ratio is taken within a round, and its median given.

    python -m benchmarks.mixing_cost [--rounds 9]
"""

import argparse
import itertools
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

import foreseer as fs
from benchmarks.common import write
from foreseer.forecast import Chebyshev
from foreseer.plan import Plan
from foreseer.plan.mixing import ChannelMixing, MixedSegment
from foreseer.runtime import BranchRun
from foreseer.schedule import Explicit

COMPUTED = (0, 3, 7, 11, 16, 21, 27, 33, 39, 45)
STEPS = 50
SHAPES = {"FLUX.1-dev, 1024 x 1024": ((1, 4096, 64), torch.bfloat16), "bundled": ((1, 64, 32), torch.float32)}


def mixing_of(plan: Plan, channels: int) -> ChannelMixing:
    """A correction of every segment by all features that are known there."""
    generator = np.random.default_rng(0)
    segments = []
    for number, (start, end) in enumerate(itertools.pairwise((*plan.computed_steps, STEPS)), start=1):
        matrices = 0.01 * generator.normal(size=(number, channels, channels)).astype(np.float32)
        steps = tuple(range(start + 1, end))
        segments.append(MixedSegment("", steps, np.ones(len(steps)), plan.computed_steps[:number], matrices))
    return ChannelMixing(-1, tuple(segments))


def seconds(plan: Plan, features: list[torch.Tensor]) -> float:
    """Mean time of a skipped step."""
    run, taken = BranchRun(plan.of_branch(""), 0), 0.0
    for step in range(STEPS):
        if step in COMPUTED:
            run.computed(step, [features[COMPUTED.index(step)]])
            continue
        began = time.perf_counter()
        assert run.why_not(step) is None
        run.forecast(step)[0]  # summed when it is asked for
        taken += time.perf_counter() - began
    return taken / (STEPS - len(COMPUTED))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (shape, dtype) in SHAPES.items():
        plain = fs.Policy(Explicit(COMPUTED, of=STEPS), Chebyshev(4, 0.1)).compile(fs.Grid.uniform(STEPS))
        pair = plain, replace(plain, mixing=mixing_of(plain, shape[-1]))
        features = [torch.randn(shape).to(dtype) for _ in COMPUTED]
        times = []
        for turn in range(given.rounds + 1):
            first = turn % 2
            found = {index: seconds(pair[index], features) for index in (first, 1 - first)}
            times += [found] if turn else []  # the first round warms up
        medians = [1e3 * statistics.median(found[index] for found in times) for index in (0, 1)]
        ratio = statistics.median(found[1] / found[0] for found in times)
        rows.append(
            {"shape": f"{name}: {shape}, {str(dtype).removeprefix('torch.')}", "scalar rows, ms": round(medians[0], 4)}
            | {"with mixing, ms": round(medians[1], 4), "ratio": round(ratio, 3)}
        )
    write("mixing_cost", f"python -m benchmarks.mixing_cost --rounds {given.rounds}", rows, of_bundled=False)


if __name__ == "__main__":
    with torch.no_grad():
        main()
