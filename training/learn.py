"""Calibrate the bundled pipeline: its kernel, and a rollout plan for ten evaluations of fifty.

The captions pair every thing of the vocabulary with a colour, and neither they nor their seeds are among those that
``evaluate.py`` judges or ``foreseer demo`` draws.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import foreseer as fs
from emoji_data import COLOUR_NAMES, caption, read_vocabulary
from foreseer import zoo
from foreseer.pipelines import split_sampling

STEPS, NFE, SEED = 50, 10, 10_000


def calibration_captions(count: int, drawn: list[str]) -> list[str]:
    """Captions of random things on random colours, none of them among ``drawn``."""
    generator = np.random.default_rng(1)
    names = [name for _, name in read_vocabulary()]
    chosen: list[str] = []
    while len(chosen) < count:
        words = caption(str(generator.choice(names)), str(generator.choice(COLOUR_NAMES)))
        if words not in drawn and words not in chosen:
            chosen.append(words)
    return chosen


def main() -> None:
    """Write kernel and plan beside the bundled pipeline's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pipe = zoo.load()
    pipe.set_progress_bar_config(disable=True)
    drawn, options = split_sampling(zoo.sampling(zoo.path()))
    options.pop("num_inference_steps")
    prompts = calibration_captions(given.prompts, drawn)
    kernel = fs.calibrate(pipe, prompts, num_inference_steps=STEPS, seed=SEED, **options)
    kernel.save(zoo.kernel_path())
    plan = fs.rollout(pipe, kernel, prompts, nfe=NFE, seed=SEED, **options)
    plan.save(zoo.plan_path(nfe=NFE))
    for file in (zoo.kernel_path(), zoo.plan_path(nfe=NFE)):
        print(f"wrote {Path(file).name}: {file.stat().st_size} bytes")
    print(f"computed steps {plan.computed_steps}")


if __name__ == "__main__":
    main()
