"""What a skipped step costs: one weighted sum against fitting and predicting on tensors.

Feature shapes of FLUX.1-dev at 1024 x 1024: its output (1, 4096, 64) and its last block (1, 4096, 3072), bfloat16.
Every forecaster goes through 50 steps of which the same 10 are computed. A round runs each once, in an order that
turns; ratios are taken within a round, and their medians given. Two costs: of one forecast once ten features have been
computed, and of a whole run (fits and updates at computed steps counted in) per skipped step.

    python -m benchmarks.forecast_cost [--rounds 7] [--threads 1] [--device cpu]
"""

import argparse
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common import write
from benchmarks.tensor_forecasters import (
    STEPS,
    CacheDitTaylor,
    DiffusersTaylor,
    Forecasting,
    L2POnTensors,
    Ours,
    SpectrumOnTensors,
    mixing_matrix,
)
from foreseer.forecast import L2P, Chebyshev, TaylorSeer
from foreseer.methods import L2P_STEPS
from foreseer.plan import Policy
from foreseer.schedule import Explicit, Growing, Schedule, Uniform

SHAPES = {"output": (1, 4096, 64), "last_block": (1, 4096, 3072)}


@dataclass(frozen=True)
class Entry:
    """A forecaster in the table: the family it is compared in, how it is made, on which steps it computes."""

    family: str
    name: str
    schedule: Schedule
    make: Callable[[], Forecasting]


def entries() -> list[Entry]:
    """Every forecaster, ours first in each family."""
    taylor, growing = Uniform(interval=8, warmup=5), Growing(interval=2, warmup=5, alpha=3.0)
    published, matrix = Explicit(L2P_STEPS[6], of=STEPS), mixing_matrix()
    found = [
        Entry("Taylor, order 2", "ours", taylor, lambda: Ours(Policy(taylor, TaylorSeer(2, first_enhance=0)))),
        Entry("Taylor, order 2", "diffusers' cache", taylor, lambda: DiffusersTaylor(2)),
        Entry("Spectrum", "ours", growing, lambda: Ours(Policy(growing, Chebyshev(4, 0.1)))),
        Entry("Spectrum", "tensors, fit at every skip", growing, lambda: SpectrumOnTensors(refit=True)),
        Entry("Spectrum", "tensors, fit when computed", growing, lambda: SpectrumOnTensors(refit=False)),
        Entry("L2P", "ours", published, lambda: Ours(Policy(published, L2P(matrix.numpy())))),
        Entry("L2P", "tensors, stacked", published, lambda: L2POnTensors(matrix, in_place=False)),
        Entry("L2P", "tensors, in place", published, lambda: L2POnTensors(matrix, in_place=True)),
    ]
    if importlib.util.find_spec("cache_dit") is not None:
        found.insert(2, Entry("Taylor, order 2", "cache-dit's calibrator", taylor, lambda: CacheDitTaylor(2)))
    return found


def run(entry: Entry, features: list[Tensor]) -> tuple[float, float, Tensor]:
    """Seconds per forecast after the tenth computed step and per skipped step, and the last forecast."""
    forecaster = entry.make()
    computed = entry.schedule.computed_steps(STEPS)
    assert len(computed) == len(features) == 10
    on_gpu = features[0].is_cuda
    whole, late, last = 0.0, [], features[0]
    for step in range(STEPS):
        began = time.perf_counter()
        if step in computed:
            forecaster.computed(step, features[computed.index(step)])
        else:
            last = forecaster.forecast(step)
        if on_gpu:
            torch.cuda.synchronize()
        taken = time.perf_counter() - began
        whole += taken
        if step > computed[-1]:
            late.append(taken)
    return statistics.median(late), whole / (STEPS - len(computed)), last


def measure(site: str, rounds: int, device: str) -> list[dict]:
    """One row a forecaster."""
    shape = SHAPES[site]
    generator = torch.Generator().manual_seed(0)
    start, slope = (torch.randn(shape, generator=generator) for _ in range(2))
    features = [(start + 0.1 * index * slope).bfloat16().to(device) for index in range(10)]
    found = entries()
    times: dict[int, list[tuple[float, float]]] = {index: [] for index in range(len(found))}
    gap: dict[int, float] = {}
    ours: dict[str, tuple[int, Tensor]] = {}
    for turn in range(rounds + 1):
        for place in range(len(found)):
            index = (place + turn) % len(found) if turn else place
            late, whole, last = run(found[index], features)
            gc.collect()
            if turn:
                times[index].append((late, whole))
                continue
            # The first round warms up, and shows that a family's members forecast the same.
            first, truth = ours.setdefault(found[index].family, (index, last))
            gap[index] = float((last.float() - truth.float()).norm() / truth.float().norm()) if index != first else 0.0
    rows = []
    for index, entry in enumerate(found):
        base = ours[entry.family][0]
        mine = [statistics.median(one[kind] for one in times[index]) for kind in (0, 1)]
        ratio = [
            statistics.median(a[kind] / b[kind] for a, b in zip(times[index], times[base], strict=True))
            for kind in (0, 1)
        ]
        rows.append(
            {
                "shape": f"{shape}",
                "method": entry.family,
                "implementation": entry.name,
                "forecast, ms": 1e3 * mine[0],
                "over ours": ratio[0],
                "run per skipped step, ms": 1e3 * mine[1],
                "over ours, run": ratio[1],
                "differs from ours by": gap[index],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = [row for site in SHAPES for row in measure(site, given.rounds, given.device)]
    command = f"python -m benchmarks.forecast_cost --rounds {given.rounds} --threads {given.threads}"
    name = "forecast_cost" if given.device == "cpu" else f"forecast_cost_{given.device.split(':')[0]}"
    write(name, command + (f" --device {given.device}" if given.device != "cpu" else ""), rows, of_bundled=False)


if __name__ == "__main__":
    with torch.no_grad():
        main()
