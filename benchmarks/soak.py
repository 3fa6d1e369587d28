"""Thousands of random generations in one process, some of them repeated in a new process.

The final latent of a generation must depend on its request only: it is compared, to the last bit, with that of a
process which did nothing else. Memory must stay flat, and every released handle must be freed.

    python -m benchmarks.soak --generations 2000 --seed 0
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import threading
import warnings
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

import foreseer as fs
from benchmarks.common import write
from benchmarks.soak_studio import Studio, draw_handle, draw_run
from foreseer.attach.interception import is_hooked

EVERY = 100


def fresh(attached: dict[str, Any], asked: dict[str, Any]) -> str:
    """The digest from a separate process."""
    words = json.dumps([attached, asked])
    command = [sys.executable, "-m", "benchmarks.soak", "--one", words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def resident_kib() -> int:
    """Resident memory of this process, after the allocator released its free memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    words = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(words[0])


def tensor_kib() -> int:
    """What all living tensors hold, each storage once."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at every object wakes deprecated ones
        storages = {
            one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
            for one in gc.get_objects()
            if type(one) in (torch.Tensor, torch.nn.Parameter) and one.device.type == "cpu"
        }
    return sum(storages.values()) // 1024


def slope(points: list[tuple[int, int]]) -> float:
    """Median slope over all pairs of points (Theil and Sen), without the first quarter."""
    x, y = np.array(points[len(points) // 4 :], dtype=float).T
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def soak(generations: int, seed: int, unattached: bool = False, plain: bool = False) -> dict[str, Any]:
    """Run them all; what was seen. With ``unattached`` nothing is attached: what is left then is not ours.

    With ``plain`` nothing is done to the model: copying, offloading and compiling it leave memory behind.
    """
    dice, studio = random.Random(seed), Studio()
    handles: list[weakref.ref[fs.Handle]] = []
    memory: list[tuple[int, int]] = []
    tensors: list[tuple[int, int]] = []
    seen: Counter[str] = Counter({"errors": 0})
    settings: Counter[str] = Counter()
    attached = draw_handle(dice, unattached, plain)
    descriptors = open_descriptors()
    for count in range(1, generations + 1):
        handle_is_new = count == 1 or dice.random() < 0.3
        if handle_is_new:
            attached = draw_handle(dice, unattached, plain)
            handle = studio.attach(attached)
            settings.update([attached["host"], attached["dtype"]])
            handles += [weakref.ref(handle)] if handle is not None else []
            del handle
        asked = draw_run(dice, studio.prompts, broken=count % EVERY != 0)
        try:
            found = studio.run(asked)
        except Exception as error:  # noqa: BLE001 - said and counted, whatever it is
            print(f"{count} ERROR: {error!r} with {attached} {asked}", flush=True)
            seen["errors"] += 1
            found = None
        seen["broken off"] += found is None
        record = studio.handle.record if studio.handle is not None else None
        seen["forecasts"] += bool(record and any(record.forecast.values()))
        seen["fail-opens"] += bool(record and record.failed_open)
        if count % EVERY == 0:
            same = fresh(attached, asked) == found
            seen["compared with a fresh process"] += 1
            seen["other than in a fresh process"] += not same
            print(count, "same" if same else f"DIFFERENT: {attached} {asked}", flush=True)
        if count % 20 == 0:
            memory.append((count, resident_kib()))
        if handle_is_new and attached["host"] == "plain":
            tensors.append((count, tensor_kib()))
    studio.let_go()
    gc.collect()
    copies = [one for host in studio.hosts.values() for one in host.copies]
    return {
        "generations": generations,
        "handles": len(handles),
        "refused": studio.refused,
        **seen,
        "handles still alive": sum(one() is not None for one in handles),
        "copies of the model": len(copies),
        "copies still alive": sum(one() is not None for one in copies),
        "hooked at the end": sum(is_hooked(host.pipe.transformer) for host in studio.hosts.values()),
        "more threads at the end": [one.name for one in threading.enumerate() if one is not threading.main_thread()],
        "more open files at the end": open_descriptors() - descriptors,
        "memory at the first quarter, MiB": memory[len(memory) // 4][1] / 1024,
        "memory at the end, MiB": memory[-1][1] / 1024,
        "slope, KiB a generation": slope(memory),
        "tensors at the first quarter, MiB": tensors[len(tensors) // 4][1] / 1024,
        "tensors at the end, MiB": tensors[-1][1] / 1024,
        "slope of tensors, KiB a generation": slope(tensors),
        "settings": dict(settings),
    }


def open_descriptors() -> int:
    """Files that this process has open."""
    return len(os.listdir("/proc/self/fd"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unattached", action="store_true", help="attach nothing, for comparison")
    parser.add_argument("--plain", action="store_true", help="do nothing to the model")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    if given.one:
        attached, asked = json.loads(given.one)
        studio = Studio()
        studio.attach(attached)
        print(studio.run(asked))
        return
    found = soak(given.generations, given.seed, given.unattached, given.plain)
    kinds = [kind for kind in ("unattached", "plain") if getattr(given, kind)]
    command = f"python -m benchmarks.soak --generations {given.generations} --seed {given.seed}"
    write("_".join(["soak", *kinds]), " ".join([command, *(f"--{kind}" for kind in kinds)]), [found], of_bundled=False)


if __name__ == "__main__":
    main()
