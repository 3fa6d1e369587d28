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
from typing import Any

import torch
from tests.unit.hosts.comfyui_standin import Executor, sigmas

from benchmarks.rendering import RESULTS
from foreseer.hosts.choice import Choice
from foreseer.hosts.comfyui.patch import KEY, ModelPatch
from foreseer.hosts.comfyui.sampler_run import SamplingRun
from foreseer.runtime import weighted_sum

RESULT = RESULTS / "host_overhead.json"
SHAPES = {(1, 16, 128, 128): 1, (1, 16, 21, 60, 104): 4}  # and how much less often each is measured
STEPS = 20
LEVELS = sigmas(STEPS)


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    began = time.thread_time()
    function(*arguments)
    return time.thread_time() - began


def difference(x: torch.Tensor, output: torch.Tensor) -> None:
    with torch.inference_mode(False):
        (x - output).sum()


class Measured:
    """Runs of twenty steps in the stand-in, ten of them computed.

    Args:
        shape: of the latent.
        method: name of the method.
    """

    def __init__(self, shape: tuple[int, ...], method: str) -> None:
        self.patch = ModelPatch(Choice(method=method, speedup=2.0))
        self.x, self.outputs = torch.randn(shape), [torch.randn(shape) for _ in range(STEPS)]
        self.sources: dict[int, tuple[list[torch.Tensor], list[float]]] = {}  # of each forecast step
        self.times: dict[str, list[float]] = {}

    def take(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Time one call of ``function``."""
        self.times.setdefault(name, []).append(seconds(function, *arguments))

    def run(self, visit: Callable[[int, Callable[..., Any]], None]) -> None:
        """One run; ``visit`` receives each step and a function that calls the wrappers (True) or the network."""
        run = SamplingRun(self.patch.choice, LEVELS.tolist(), {})
        options = {"transformer_options": {KEY: run}}
        (self.record,) = run.report.records
        for step in range(STEPS):
            sigma = LEVELS[step : step + 1]

            def network(*_: Any, step: int = step) -> Any:
                return self.outputs[step]

            def call(wrapped: bool, sigma: Any = sigma, network: Any = network) -> Any:
                Executor(network, None, [self.patch.predict_noise] if wrapped else [])(self.x, sigma, options, 0)

            visit(step, call)
            if self.record.forecast and step in self.record.forecast["visit 1"]:
                used, weights = self.record.plans["visit 1"].sparse_rows[step]
                self.sources[step] = [self.outputs[other] for other in used], weights
        run.end()

    def forecasts(self, bare_first: bool) -> None:
        """Time forecasts and bare sums, in the order given, as the first of two gets new memory."""

        def visit(step: int, call: Callable[..., Any]) -> None:
            if step not in self.sources:
                call(True)
                return
            pair = [("forecast", call, (True,)), ("weighted_sum", weighted_sum, self.sources[step])]
            for name, function, arguments in reversed(pair) if bare_first else pair:
                self.take(name, function, *arguments)

        self.run(visit)

    def computed_steps(self) -> None:
        """Time computed steps, bare calls, and the arithmetic that a computed step needs at least."""

        def visit(step: int, call: Callable[..., Any]) -> None:
            if step in self.sources:
                call(True)
                return
            self.take("computed", call, True)
            self.take("call", call, False)
            self.take("arithmetic", difference, self.x, self.outputs[step])

        self.run(visit)


def measure(shape: tuple[int, ...], method: str, rounds: int) -> dict[str, float]:
    """Medians over runs of twenty steps, ten of them computed."""
    measured = Measured(shape, method)
    measured.run(lambda step, call: call(True))
    for turn in range(rounds):
        measured.forecasts(bare_first=turn % 2 == 1)
        measured.computed_steps()
    ms = {name: 1e3 * statistics.median(times) for name, times in measured.times.items()}
    return {
        "terms": statistics.mean(len(used) for used, _ in measured.sources.values()),
        "forecast_ms": ms["forecast"],
        "weighted_sum_ms": ms["weighted_sum"],
        "forecast_over_weighted_sum": ms["forecast"] / ms["weighted_sum"],
        "computed_overhead_ms": ms["computed"] - ms["call"],
        "computed_arithmetic_ms": ms["arithmetic"],
        "computed_over_arithmetic": (ms["computed"] - ms["call"]) / ms["arithmetic"],
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
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
