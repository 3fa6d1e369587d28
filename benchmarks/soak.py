"""Thousands of generations in one process, everything changed at random; now and then one is repeated in a fresh one.

What a generation gives must depend on what was asked for alone: its final latent is compared, to the last bit, with
that of a process which did nothing else. Memory must stay flat, and every handle must be gone when it was let go.

    python -m benchmarks.soak --generations 2000 --seed 0
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import random
import subprocess
import sys
import threading
import warnings
import weakref
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

import foreseer as fs
from benchmarks.common import bundled, write
from foreseer.attach.hooks import is_hooked

EVERY = 100
BUDGETS = (2, 3, 5, 8)
DISTURBANCES = ("none", "none", "none", "exception", "interrupt", "rewritten latents", "given latents", "thread")


class BrokenOffError(Exception):
    """What a disturbed run is broken off with."""


def draw_policy(dice: random.Random) -> dict[str, Any] | None:
    """A method at a random budget; ``None`` for no attachment."""
    if dice.random() < 0.1:
        return None
    names = [name for name, method in fs.methods.METHODS.items() if name != "l2p" and not method.reduces_steps]
    return {
        "method": dice.choice(names),
        "nfe": dice.choice(BUDGETS),
        "keep": dice.choice(["device", "device", "host"]),
    }


def draw_run(dice: random.Random, prompts: list[str]) -> dict[str, Any]:
    """One generation, in plain words and numbers."""
    steps = dice.choice([4, 6, 8, 10, 12, 16])
    return {
        "prompts": dice.sample(prompts, dice.choice([1, 1, 1, 2])),
        "images": dice.choice([1, 1, 1, 2]),
        "steps": steps,
        "size": dice.choice([48, 64, 64, 80]),
        "guidance": dice.choice([None, None, 2.0, 3.0]),
        "scheduler": dice.choice(["euler", "euler", "euler", "unipc", "heun"]),
        "strength": dice.choice([None, None, None, 0.5, 0.9]),
        "disturbance": dice.choice(DISTURBANCES),
        "at": dice.randrange(steps),
        "seed": dice.randrange(2**31),
    }


class Studio:
    """The bundled pipeline, its schedulers, and its image-to-image form on the same transformer."""

    def __init__(self) -> None:
        self.pipe, self.prompts, _ = bundled()
        flow = self.pipe.scheduler
        self.schedulers = {
            "euler": flow,
            "unipc": diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
            "heun": diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0),
        }
        self.again = diffusers.FluxImg2ImgPipeline.from_pipe(self.pipe)
        self.again.set_progress_bar_config(disable=True)

    def attach(self, policy: dict[str, Any] | None, steps: int) -> fs.Handle | None:
        """A handle for the policy, compiled for runs of ``steps`` or any other number of steps."""
        if policy is None:
            return None
        chosen = fs.methods.find(policy["method"]).policy(steps, min(policy["nfe"], steps))
        return fs.accelerate(self.pipe, chosen, keep=policy["keep"])

    def run(self, asked: dict[str, Any]) -> str | None:
        """The digest of the final latent; ``None`` for a run that was broken off."""
        self.pipe.scheduler = self.schedulers[asked["scheduler"]]
        self.again.scheduler = self.pipe.scheduler
        if asked["scheduler"] == "heun":  # it takes neither sigmas nor a late start
            return self._steps(asked)
        late = asked["strength"] is not None and asked["scheduler"] == "euler"
        generator = torch.Generator().manual_seed(asked["seed"])
        options: dict[str, Any] = {
            "prompt": asked["prompts"],
            "num_images_per_prompt": asked["images"],
            "num_inference_steps": asked["steps"],
            "height": asked["size"],
            "width": asked["size"],
            "max_sequence_length": 16,
            "generator": generator,
            "output_type": "latent",
        }
        if asked["guidance"] is not None:
            options |= {"true_cfg_scale": asked["guidance"], "negative_prompt": [""] * len(asked["prompts"])}
        if late:
            picture = torch.rand(1, 3, asked["size"], asked["size"], generator=generator)
            options |= {"image": picture, "strength": asked["strength"]}
        pipe = self.again if late else self.pipe
        if asked["disturbance"] == "given latents" and not late:
            tokens = (asked["size"] // 16) ** 2
            batch = len(asked["prompts"]) * asked["images"]
            shape = (batch, tokens, pipe.transformer.config.in_channels)
            options["latents"] = torch.randn(shape, generator=generator)
        return self._disturbed(pipe, options, asked)

    def _disturbed(self, pipe: Any, options: dict[str, Any], asked: dict[str, Any]) -> str | None:
        kind, at = asked["disturbance"], asked["at"]

        def at_step(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
            if step == at and kind == "exception":
                raise BrokenOffError
            if step == at and kind == "interrupt":
                pipe._interrupt = True
            if kind == "rewritten latents":
                given["latents"] = given["latents"] * (1 + 0.01 * (step == at))
            return given

        found: list[torch.Tensor] = []

        def call() -> None:
            found.append(pipe(**options, callback_on_step_end=at_step).images)

        try:
            if kind == "thread":
                thread = threading.Thread(target=call)
                thread.start()
                thread.join()
            else:
                call()
        except BrokenOffError:
            return None
        return None if kind == "interrupt" else digest(found[0])

    def _steps(self, asked: dict[str, Any]) -> str:
        """A loop of one's own on the same transformer: a scheduler that visits its noise levels twice."""
        pipe, generator = self.pipe, torch.Generator().manual_seed(asked["seed"])
        embeds, pooled, text_ids = pipe.encode_prompt(asked["prompts"], asked["prompts"], max_sequence_length=16)
        side = asked["size"] // 16
        sample = torch.randn(len(embeds), side * side, pipe.transformer.config.in_channels, generator=generator)
        image_ids = pipe._prepare_latent_image_ids(len(embeds), side, side, sample.device, sample.dtype)
        pipe.scheduler.set_timesteps(asked["steps"])
        with torch.no_grad():
            for timestep in pipe.scheduler.timesteps:
                output = pipe.transformer(
                    hidden_states=sample,
                    timestep=timestep.expand(len(embeds)) / 1000,
                    pooled_projections=pooled,
                    encoder_hidden_states=embeds,
                    txt_ids=text_ids,
                    img_ids=image_ids,
                    return_dict=False,
                )[0]
                sample = pipe.scheduler.step(output, timestep, sample, return_dict=False)[0]
        return digest(sample)


def digest(latent: torch.Tensor) -> str:
    """A name for the bits of a latent."""
    return hashlib.sha256(latent.contiguous().numpy().tobytes()).hexdigest()


def fresh(policy: dict[str, Any] | None, compiled_for: int, asked: dict[str, Any]) -> str:
    """The digest that a process of its own gives."""
    words = json.dumps([policy, compiled_for, asked])
    command = [sys.executable, "-m", "benchmarks.soak", "--one", words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def resident_kib() -> int:
    """Resident memory of this process."""
    words = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(words[0])


def slope(points: list[tuple[int, int]]) -> float:
    """The median slope over all pairs of points (Theil and Sen), the first quarter left out: it fills caches."""
    x, y = np.array(points[len(points) // 4 :], dtype=float).T
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def soak(generations: int, seed: int) -> dict[str, Any]:
    """Run them all; what was seen."""
    dice, studio = random.Random(seed), Studio()
    handles: list[weakref.ref[fs.Handle]] = []
    memory: list[tuple[int, int]] = []
    seen: Counter[str] = Counter()
    handle, policy, compiled_for = None, None, 8
    for count in range(1, generations + 1):
        if count == 1 or dice.random() < 0.3:
            if handle is not None:
                handle.detach()
            policy, compiled_for = draw_policy(dice), dice.choice([8, 12, 16])
            handle = studio.attach(policy, compiled_for)
            handles += [weakref.ref(handle)] if handle is not None else []
        asked = draw_run(dice, studio.prompts)
        if count % EVERY == 0 and asked["disturbance"] in ("exception", "interrupt"):
            asked["disturbance"] = "none"
        found = studio.run(asked)
        seen["broken off"] += found is None
        seen["fail-opens"] += bool(handle is not None and handle.record and handle.record.failed_open)
        if count % EVERY == 0:
            same = fresh(policy, compiled_for, asked) == found
            seen["compared with a fresh process"] += 1
            seen["other than in a fresh process"] += not same
            print(count, "same" if same else f"DIFFERENT: {policy} {compiled_for} {asked}", flush=True)
        if count % 20 == 0:
            gc.collect()
            memory.append((count, resident_kib()))
    if handle is not None:
        handle.detach()
    del handle
    gc.collect()
    return {
        "generations": generations,
        "handles": len(handles),
        **seen,
        "handles still alive": sum(one() is not None for one in handles),
        "hooked at the end": int(is_hooked(studio.pipe.transformer)),
        "memory at the first quarter, MiB": memory[len(memory) // 4][1] / 1024,
        "memory at the end, MiB": memory[-1][1] / 1024,
        "slope, KiB a generation": slope(memory),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", fs.ForeseerWarning)
    if given.one:
        policy, compiled_for, asked = json.loads(given.one)
        studio = Studio()
        with studio.attach(policy, compiled_for) or nullcontext():
            print(studio.run(asked))
        return
    found = soak(given.generations, given.seed)
    write("soak", f"python -m benchmarks.soak --generations {given.generations} --seed {given.seed}", [found])


if __name__ == "__main__":
    main()
