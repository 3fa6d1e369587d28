"""Calibrate the bundled pipeline: its kernel, and a refined plan that computes ten of fifty steps.

The captions pair random icons with random colours; neither they nor their seeds are among those that ``foreseer demo``
draws, and the seeds are not among those of ``evaluate.py``.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import foreseer as fs
from foreseer import zoo
from foreseer.pipelines import split_sampling
from icons import COLOUR_NAMES, Icon, caption, load_icons

STEPS, NFE, SEED = 50, 10, 10_000


def calibration_captions(icons: list[Icon], count: int, drawn: list[str]) -> list[str]:
    """Return captions of random icons on random backgrounds that show them, none of them among ``drawn``."""
    generator = np.random.default_rng(1)
    chosen: list[str] = []
    while len(chosen) < count:
        icon = icons[generator.integers(len(icons))]
        text = caption(icon.name, COLOUR_NAMES[generator.choice(icon.colours)])
        if text not in drawn and text not in chosen:
            chosen.append(text)
    return chosen


def main() -> None:
    """Write kernel and plan beside the bundled pipeline's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder or tar of the icons")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pipe = zoo.load()
    pipe.set_progress_bar_config(disable=True)
    drawn, options = split_sampling(zoo.sampling(zoo.path()))
    options.pop("num_inference_steps")
    prompts = calibration_captions(load_icons(arguments.source), arguments.prompts, drawn)
    kernel = fs.calibrate(pipe, prompts, num_inference_steps=STEPS, seed=SEED, **options)
    kernel.save(zoo.kernel_path())
    plan = fs.rollout(pipe, kernel, prompts, nfe=NFE, seed=SEED, **options)
    plan = fs.refine(pipe, plan, prompts, seed=SEED, **options)
    plan.save(zoo.plan_path(nfe=NFE))
    for file in (zoo.kernel_path(), zoo.plan_path(nfe=NFE)):
        print(f"wrote {Path(file).name}: {file.stat().st_size} bytes")
    print(f"computed steps {plan.computed_steps}")


if __name__ == "__main__":
    main()
