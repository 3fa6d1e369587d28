"""Overhead of the ComfyUI wrappers, on the stand-in of ComfyUI: python -m benchmarks.host_overhead.

A forecast step is compared with the bare weighted sum of the same features, and a computed step with the bare call and
with the arithmetic that it needs at least (x - D and a sum over it), in turns (A B A B), by medians of the thread's own
CPU time, which other processes disturb little. torch uses one thread, and freed memory is kept for reuse, as allocators
of GPUs do: new pages of a CPU cost as much as the arithmetic. Times depend on how busy the memory is; ratios little.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.unit.hosts.comfyui_standin import Executor, sigmas

from foreseer.hosts.choice import Choice
from foreseer.hosts.comfyui.patch import KEY, ModelPatch
from foreseer.hosts.comfyui.sampler_run import SamplingRun
from foreseer.runtime import weighted_sum

RESULTS = Path(__file__).parent / "results" / "host_overhead.json"
SHAPES = {(1, 16, 128, 128): 1, (1, 16, 21, 60, 104): 4}  # and how much less often each is measured
STEPS = 20


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    began = time.thread_time()
    function(*arguments)
    return time.thread_time() - began


def difference(x: torch.Tensor, output: torch.Tensor) -> None:
    with torch.inference_mode(False):
        (x - output).sum()


def bare(source: tuple[list[torch.Tensor], list[float]]) -> float:
    return seconds(weighted_sum, *source)


def measure(shape: tuple[int, ...], method: str, rounds: int) -> dict[str, float]:
    """Medians over runs of twenty steps, ten of them computed."""
    levels = sigmas(STEPS)
    patch = ModelPatch(Choice(method=method, speedup=2.0))
    x, outputs = torch.randn(shape), [torch.randn(shape) for _ in range(STEPS)]
    forecast, bare_sum, computed, bare_call, least, terms = [], [], [], [], [], []
    sources: dict[int, tuple[list[torch.Tensor], list[float]]] = {}
    for turn in range(rounds):
        run = SamplingRun(patch.choice, levels.tolist(), {})
        options = {"transformer_options": {KEY: run}}
        (record,) = run.report.records
        for step in range(STEPS):
            sigma = levels[step : step + 1]

            def network(*_: Any, step: int = step) -> Any:
                return outputs[step]

            wrapped = Executor(network, None, [patch.predict_noise])
            plain = Executor(network, None, [])
            source = sources.get(step)
            early = bare(source) if turn % 2 and source is not None else None  # by turns, as the first gets new memory
            before = record.nfe
            taken = seconds(wrapped, x, sigma, options, 0)
            if record.nfe > before:
                computed.append(taken)
                bare_call.append(seconds(plain, x, sigma, options, 0))
                least.append(seconds(difference, x, outputs[step]))
                continue
            used, weights = record.plans["visit 1"].sparse_rows[step]
            sources[step] = [outputs[other] for other in used], weights
            forecast.append(taken)
            bare_sum.append(early if early is not None else bare(sources[step]))
            terms.append(len(used))
        run.end()
    return {
        "terms": statistics.mean(terms),
        "forecast_ms": 1e3 * statistics.median(forecast),
        "weighted_sum_ms": 1e3 * statistics.median(bare_sum),
        "forecast_over_weighted_sum": statistics.median(forecast) / statistics.median(bare_sum),
        "computed_overhead_ms": 1e3 * (statistics.median(computed) - statistics.median(bare_call)),
        "computed_arithmetic_ms": 1e3 * statistics.median(least),
    }


def keep_freed_memory() -> None:
    """Have the C library return no memory to the system (glibc: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD)."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(-3, 2**25)
        library.mallopt(-1, 2**31 - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep_freed_memory()
    with torch.inference_mode():
        results: dict[str, Any] = {
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "threads": 1,
            "rounds": rounds,
            "figures": {
                f"{'x'.join(map(str, shape))} {method}": measure(shape, method, max(1, rounds // divisor))
                for shape, divisor in SHAPES.items()
                for method in ("adams-bashforth", "taylorseer")
            },
        }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
