"""Every method at equal NFE on the video example, on prompts that calibration never saw.

Fidelity only (no timing), against the run that computes all 50 steps. *temporal error*: norm of the error of the
differences between neighbouring frames over the norm of the reference's differences.

    python -m benchmarks.video [--prompts 32] [--calibration 32] [--cfg 3]
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import foreseer as fs
from benchmarks.common import write
from benchmarks.gated import run_gated
from benchmarks.learning import CALIBRATION_SEED, STEPS, Bench, published_policies, rolled, run_solvers
from foreseer.evaluate.entries.tune_gates import GateTuning
from foreseer.evaluate.metrics.similarity import psnr, relative_error, ssim
from foreseer.methods import L2P_STEPS
from foreseer.methods.train_l2p import train_l2p
from foreseer.pipelines import load_pipeline, split_sampling
from foreseer.schedule import Explicit, Optimal
from video.data import THINGS_FILE, all_captions
from video.emoji import read_vocabulary

FOLDER = Path(__file__).parents[1] / "examples" / "emoji-video"
BUDGETS = (14, 9, 7)
INSIDE = ("fora", "taylorseer-modules", "delta-dit")
TRIALS = 4
MEASURES = ("PSNR", "SSIM", "temporal error", "latent")
MEAN_NFE = len(MEASURES)  # what a gate spent, behind the measures


def captions(count, offset):
    """Captions of every thing, motion and background, shuffled; those from ``offset`` on."""
    words = all_captions([name for _, name in read_vocabulary(THINGS_FILE)])
    order = np.random.default_rng(0).permutation(len(words))
    return [words[index] for index in order[offset : offset + count]]


class VideoBench(Bench):
    """The held-out prompts as videos, shape (F, H, W, 3) in [0, 1]."""

    @torch.no_grad()
    def decode(self, latent):
        """Decode latents to videos."""
        vae = self.pipe.vae
        mean, deviation = (torch.tensor(vae.config[f"latents_{word}"]).view(1, -1, 1, 1, 1) for word in ("mean", "std"))
        video = vae.decode(latent * deviation + mean, return_dict=False)[0]
        return self.pipe.video_processor.postprocess_video(video, output_type="np")

    def score(self, made, reference=None):
        """Mean PSNR in dB and SSIM of the frames; median temporal error and error of the final latent."""
        pairs = list(zip(made, reference or self.reference, strict=True))
        videos = [(video, true) for (_, video), (_, true) in pairs]
        return (
            statistics.mean(min(psnr(video, true), 99.0) for video, true in videos),
            statistics.mean(
                ssim(frame, true) for video, trues in videos for frame, true in zip(video, trues, strict=True)
            ),
            statistics.median(relative_error(np.diff(video, axis=0), np.diff(true, axis=0)) for video, true in videos),
            statistics.median(relative_error(latent, true) for (latent, _), (true, _) in pairs),
        )


def learned_policies(pipe, options, kernel, prompts, budget):
    """L2P, kernel rows and rollout, at L2P's steps where it publishes some and on searched ones."""
    l2p = train_l2p(kernel)
    policies = {
        "L2P, searched steps": fs.Policy(Optimal(kernel, budget, forecaster=l2p), l2p),
        "kernel rows, searched steps": fs.learned(kernel, nfe=budget),
        "rollout, searched steps": rolled(pipe, kernel, prompts, budget, options),
    }
    steps = next((chosen for chosen in L2P_STEPS.values() if len(chosen) == budget), None)
    if steps is not None:
        policies = {"L2P as published": fs.Policy(Explicit(steps, of=STEPS), l2p), **policies}
    return policies


def inside_policies(budget):
    """Published methods at the sites of their programs: modules, and the change of a range of blocks."""
    return {fs.methods.find(name).title: fs.methods.find(name).policy(STEPS, budget) for name in INSIDE}


def run_teacache(bench, trials, budget):
    """TeaCache, polynomial and threshold set up for the budget on prompts of calibration; one video a run."""
    policy = fs.methods.find("teacache").policy(STEPS)
    settled = trials.tune(replace(policy, gate=trials.fitted(policy.gate)), budget)
    made, spent = run_gated(bench, settled.policy)
    print(f"TeaCache: threshold {settled.value:.4g}, {spent.mean():.2f} forward passes", flush=True)
    return (*bench.score(made), float(spent.mean()))


def flat(by, budgets):
    """The measures of one method at all budgets, and what a gate spent."""
    row = {}
    for budget in budgets:
        score = by.get(budget, ())
        row |= {f"{budget} NFE, {m}": round(score[i], 5) if score else None for i, m in enumerate(MEASURES)}
        if len(score) > MEAN_NFE:
            row[f"{budget} NFE, spent"] = score[MEAN_NFE]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--cfg", type=float, default=1.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipe, sampling = load_pipeline(str(FOLDER))
    pipe.set_progress_bar_config(disable=True)
    options = {**split_sampling(sampling)[1], "guidance_scale": given.cfg}
    options.pop("num_inference_steps")
    training = captions(given.calibration, 0)
    kernel = fs.calibrate(pipe, training, num_inference_steps=STEPS, seed=CALIBRATION_SEED, **options)
    bench = VideoBench(pipe, options, captions(given.prompts, given.calibration))
    trials = GateTuning(pipe, STEPS, options, training[:TRIALS], CALIBRATION_SEED)
    cells: dict[str, dict[int, tuple[float, ...]]] = {}
    for budget in given.budgets:
        policies = published_policies(budget) | inside_policies(budget)
        policies |= learned_policies(pipe, options, kernel, training, budget)
        scores = dict(run_solvers(bench, budget))
        scores |= {name: bench.score(bench.sample(STEPS, policy)) for name, policy in policies.items()}
        scores["TeaCache"] = run_teacache(bench, trials, budget)
        for name, score in scores.items():
            cells.setdefault(name.split(f", {budget} steps")[0], {})[budget] = score
            print(f"{budget:>3} NFE  {name:<32} " + "  ".join(f"{value:.4f}" for value in score), flush=True)
    rows = [{"method": name} | flat(by, given.budgets) for name, by in cells.items()]
    command = f"python -m benchmarks.video --prompts {given.prompts} --calibration {given.calibration}"
    guided = given.cfg > 1.0
    write(
        f"video_cfg{given.cfg:g}" if guided else "video",
        command + (f" --cfg {given.cfg:g}" if guided else ""),
        rows,
        of_bundled=False,
    )


if __name__ == "__main__":
    main()
