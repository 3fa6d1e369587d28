"""Realised and attainable speedup of the denoising loop, and the time that Foreseer itself takes.

Each round runs the reference and every setting in an order that turns; ratios and differences are taken within a round,
and their median over rounds is reported. Batch 1, output site. A setting runs three times: as it is; without Foreseer,
a stored output standing in for the network at the steps that the setting skips (its speedup is *attainable*); and with
Foreseer and the stored output at every step, which leaves Foreseer's own time after the same loop without Foreseer is
subtracted.

    python -m benchmarks.speed [--rounds 15] [--threads 1] [--cfg 3]
"""

import argparse
import itertools
import statistics
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import foreseer as fs
from benchmarks.common import bundled, guided, sample, write
from foreseer.attach.run_record import RunRecord
from foreseer.evaluate.sampling.timing import time_loop

STEPS = 50
SETTINGS = [(method, nfe) for method in ("reuse", "taylorseer", "spectrum") for nfe in (25, 14, 10, 7)]


@dataclass(frozen=True)
class Timed:
    """One denoising loop: seconds of each step, and the record of the run if Foreseer was attached."""

    steps: np.ndarray
    record: RunRecord | None

    @property
    def whole(self) -> float:
        """Seconds of the loop."""
        return float(self.steps.sum())


@contextmanager
def stored_output(pipe: Any, output: Any, branches: int, computed: Collection[int] = ()) -> Iterator[None]:
    """Replace the network by ``output`` at all steps but ``computed``."""
    forward, calls = pipe.transformer.forward, itertools.count()

    def stored(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs) if next(calls) // branches in computed else output

    pipe.transformer.forward = stored
    try:
        yield
    finally:
        del pipe.transformer.forward


def output_of(pipe: Any, prompt: str, options: dict[str, Any]) -> Any:
    """An output of the network."""
    outputs: list[Any] = []
    hook = pipe.transformer.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        sample(pipe, prompt, options, 1, seed=1)
    finally:
        hook.remove()
    return outputs[0]


def timed(pipe: Any, prompt: str, options: dict[str, Any], policy: fs.Policy | None) -> Timed:
    """Time one denoising loop."""
    if policy is None:
        with time_loop(pipe) as loop:
            sample(pipe, prompt, options, STEPS, seed=1)
        return Timed(loop.step_seconds, None)
    with fs.accelerate(pipe, policy, strict=True) as handle, time_loop(pipe) as loop:
        sample(pipe, prompt, options, STEPS, seed=1)
    return Timed(loop.step_seconds, handle.record)


@dataclass(frozen=True)
class Bench:
    """What every round runs.

    Args:
        pipe: the pipeline.
        prompt: the prompt.
        options: call options.
        branches: calls of the network per step.
        policies: the settings' policies.
        output: stored output of the network.
    """

    pipe: Any
    prompt: str
    options: dict[str, Any]
    branches: int
    policies: dict[tuple[str, int], fs.Policy]
    output: Any

    def one_round(self, turn: int) -> dict[tuple[str, int], dict[str, float | None]]:
        """Figures of every setting from one round."""
        order: list[tuple[str, int] | None] = [None, *self.policies]
        runs = {key: self._runs(key) for key in order[turn % len(order) :] + order[: turn % len(order)]}
        return {key: figures([*runs[None], *runs[key]], self.branches) for key in self.policies}

    def _runs(self, key: tuple[str, int] | None) -> list[Timed]:
        """The loop itself; for a setting without Foreseer, skipping as it does; and with a stored output only."""
        policy = self.policies[key] if key else None
        runs = [self._timed(policy)]
        if (record := runs[0].record) is not None:
            with stored_output(self.pipe, self.output, self.branches, {*record.computed_steps}):
                runs.append(self._timed(None))
        with stored_output(self.pipe, self.output, self.branches):
            return [*runs, self._timed(policy)]

    def _timed(self, policy: fs.Policy | None) -> Timed:
        return timed(self.pipe, self.prompt, self.options, policy)


def figures(runs: list[Timed], branches: int) -> dict[str, float | None]:
    """What one round says of one setting; step 0, in which the run begins, is reported apart."""
    reference, empty, run, without, own = runs
    assert run.record is not None
    forward = (reference.whole - empty.whole) / STEPS / branches
    computed = np.array(run.record.computed_steps)[1:]
    skipped = np.array(run.record.forecast_steps)
    cold = computed[np.isin(computed - 1, skipped)]
    usual = float(np.median(reference.steps[1:]))
    extra = 1e3 * (own.steps - np.median(empty.steps[1:]))
    calls = sum(len(steps) for steps in run.record.forecast.values())
    return {
        "speedup": reference.whole / run.whole,
        "attainable": reference.whole / without.whole,
        "realised / attainable": without.whole / run.whole,
        "own, ms per computed step": median_of(extra[computed]),
        "own, ms per skipped step": median_of(extra[skipped]),
        "own, ms at the run's start": float(extra[0]),
        "computed after a skip / reference": median_of(run.steps[cold] / usual),
        "the same without Foreseer": median_of(without.steps[cold] / usual),
        "forecast / forward": run.record.forecast_seconds / calls / forward,
        "forward, ms": 1e3 * forward,
    }


def median_of(values: np.ndarray) -> float | None:
    """The median; ``None`` of nothing."""
    return float(np.median(values)) if values.size else None


def measure(rounds: int, cfg: float | None) -> list[dict]:
    """One row per setting."""
    pipe, prompts, options = bundled()
    options = guided(options, cfg)
    policies = {key: fs.methods.find(key[0]).policy(STEPS, key[1], site="output") for key in SETTINGS}
    output = output_of(pipe, prompts[0], options)
    bench = Bench(pipe, prompts[0], options, 1 if cfg is None else 2, policies, output)
    bench.one_round(0)  # warm up
    turns = [bench.one_round(index) for index in range(rounds)]
    rows = []
    for key in SETTINGS:
        measured = {name: [turn[key][name] for turn in turns] for name in turns[0][key]}
        columns = {name: [value for value in values if value is not None] for name, values in measured.items()}
        medians = {name: statistics.median(values) if values else None for name, values in columns.items()}
        assert medians["speedup"] is not None
        shares = {"T / NFE": STEPS / key[1], "realised": medians["speedup"] * key[1] / STEPS}
        rows.append({"method": key[0], "NFE": key[1], **medians, **shares, "guidance": cfg or 1.0})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cfg", type=float, default=None, help="true_cfg_scale: two forwards a step")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    command = f"python -m benchmarks.speed --rounds {arguments.rounds} --threads {arguments.threads}"
    if arguments.cfg is None:
        write("speed", command, measure(arguments.rounds, None))
    else:
        write("speed_cfg", f"{command} --cfg {arguments.cfg:g}", measure(arguments.rounds, arguments.cfg))


if __name__ == "__main__":
    main()
