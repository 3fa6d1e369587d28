"""Wall-clock of two workers over one on this machine, calibrating the bundled pipeline.

Rounds alternate one worker and two (A B A B); workers are started and have loaded their pipeline before the first
round, so the ratio is that of the work. It is at most 2, and only where two cores are free: the load of other
processes is written down with it. The kernels of all rounds are compared bit for bit.

    OMP_NUM_THREADS=1 python -m benchmarks.scaling [--rounds 5] [--prompts 8] [--ray]
"""

import argparse
import os
import statistics
import time

import torch

import foreseer as fs
from benchmarks.common import bundled, write
from foreseer.kernel.kernel_file import encode_kernel


def timed(place: fs.scale.Place, prompts: list[str], options: dict, steps: int) -> tuple[float, bytes]:
    """Seconds of one calibration, and the bytes of its kernel."""
    began = time.perf_counter()
    kernel = fs.calibrate("emoji", prompts, num_inference_steps=steps, sensitivity_prompts=0, workers=place, **options)
    return time.perf_counter() - began, encode_kernel(kernel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ray", action="store_true", help="Ray actors instead of processes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    _, examples, options = bundled()
    options.pop("num_inference_steps", None)
    prompts = [examples[index % len(examples)] for index in range(given.prompts)]
    make = (lambda count: fs.scale.Ray(count, "local")) if given.ray else fs.scale.Processes
    seconds: dict[int, list[float]] = {1: [], 2: []}
    busy = os.getloadavg()[0]  # before the workers start: of other processes
    kernels = set()
    with make(1) as one, make(2) as two:
        for place in (one, two):
            timed(place, prompts, options, 2)
        for _ in range(given.rounds):
            for count, place in ((1, one), (2, two)):
                elapsed, kernel = timed(place, prompts, options, given.steps)
                seconds[count].append(elapsed)
                kernels.add(kernel)
    if len(kernels) != 1:
        raise SystemExit("The kernels of one and of two workers differ.")
    ratios = [alone / together for alone, together in zip(seconds[1], seconds[2], strict=True)]
    row = {
        "place": "Ray" if given.ray else "processes",
        "cores": os.cpu_count(),
        "load average before": busy,
        "prompts": given.prompts,
        "steps": given.steps,
        "one worker, s": statistics.median(seconds[1]),
        "two workers, s": statistics.median(seconds[2]),
        "ratio, median of rounds": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }
    command = f"python -m benchmarks.scaling --rounds {given.rounds} --prompts {given.prompts} --steps {given.steps}"
    write("scaling_ray" if given.ray else "scaling", command + (" --ray" if given.ray else ""), [row])


if __name__ == "__main__":
    main()
