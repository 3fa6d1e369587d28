"""One process of a context-parallel run.

    python -m tests.robustness.ranks RANK WORLD FILE SITE PIPELINE

Prints one line of JSON: what was computed and forecast, and digests of the image with and without the policy.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, distributed

import foreseer as fs
from tests.support.attaching import policy
from tests.support.pipelines import build


def main(rank: int, world: int, store: str, site: str, name: str) -> dict[str, Any]:
    """The record of this rank; its transformer takes a share of the tokens (Ulysses)."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tiny = build(name)
    with torch.no_grad():
        alone = tiny.run()
        with fs.accelerate(tiny.pipe, policy(site)):
            alone_accelerated = tiny.run()
    distributed.init_process_group("gloo", init_method=Path(store).as_uri(), rank=rank, world_size=world)
    model = tiny.pipe.transformer
    torch.accelerator.device_count = lambda: 1  # diffusers 0.42 divides by it, and a machine without a GPU has none
    model.set_attention_backend("native")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.enable_parallelism(config=diffusers.ContextParallelConfig(ulysses_degree=world))
    plain = tiny.run()
    with fs.accelerate(tiny.pipe, policy(site)) as handle:
        first, second = tiny.run(), tiny.run()
        record = handle.record
    again = tiny.run()
    assert record is not None
    distributed.destroy_process_group()
    return {
        "computed": record.computed,
        "forecast": record.forecast,
        "failed_open": [one.reason for one in record.failed_open],
        "plain": [digest(plain), digest(again)],
        "accelerated": [digest(first), digest(second)],
        "from_alone": [distance(plain, alone), distance(first, alone_accelerated)],
    }


def digest(image: Tensor) -> str:
    """Digest of its bits."""
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest error, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])), flush=True)
