"""A process of a sequence-parallel run: ``python -m tests.unit.hosts.halves RANK WORLD FILE``.

Each process holds its share of the tokens. The network is a collective: a process that computes while another forecasts
would wait forever.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

import foreseer as fs
from foreseer.hosts.choice import Choice

STEPS, TOKENS, WIDTH = 12, 16, 8


def weights() -> Tensor:
    return torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)) / WIDTH**0.5


def attention(tokens: Tensor, everything: Tensor, t: float) -> Tensor:
    """Every token looks at all; the sum runs over tokens in the same order whoever holds them."""
    scores = torch.softmax(tokens @ weights() @ everything.mT, dim=-1)
    return torch.tanh(scores @ everything + t)


def sample(rank: int, world: int, spoiled: int | None = None) -> tuple[Tensor, fs.Run, int]:
    """Euler on this process's tokens; ``spoiled`` is the process whose second computed output has a NaN."""
    grid = fs.Grid.uniform(STEPS)
    policy = Choice(speedup=3.0).policy(grid)
    assert policy is not None
    run, calls = fs.Run(policy, grid, warn=False, parallel=True), 0
    every = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    x = every.chunk(world)[rank].clone()
    for step, t in enumerate(grid):
        output = run.forecast(step, inputs=(x,))
        if output is None:
            calls += 1
            parts = [torch.empty_like(x) for _ in range(world)]
            if world > 1:
                distributed.all_gather(parts, x)
            output = attention(x, torch.cat(parts) if world > 1 else x, t)
            if spoiled == rank and calls == 2:
                output[0, 0] = float("nan")
            run.computed(step, output)
        x = x - output / STEPS
    return x, run, calls


def main(rank: int, world: int, store: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=Path(store).as_uri(), rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    x, run, calls = sample(rank, world)
    spoiled, spoiled_run, spoiled_calls = sample(rank, world, spoiled=1)
    distributed.destroy_process_group()
    alone, _, _ = sample(0, 1)
    error = float((x - alone.chunk(world)[rank]).abs().max())
    return {
        "computed": run.record.computed,
        "calls": calls,
        "error": error,
        "spoiled": spoiled_run.record.computed,
        "spoiled_calls": spoiled_calls,
        "finite": bool(torch.isfinite(spoiled).all()),
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])), flush=True)
