"""Every method and untrained peer by name, at equal budgets, with the FLOPs that it spends.

Kernel and rollouts are learned on captions that are not drawn; `foreseer bench` does the rest. Where a method skips
parts of the network only, or a gate decides, "forward_passes" are its FLOPs over those of one whole pass.

    python -m benchmarks.every_method [--model emoji | examples/emoji-video] [--prompts 12] [--calibration 16]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

import foreseer as fs
from benchmarks import learning, video
from benchmarks.common import write
from benchmarks.learning import CALIBRATION_SEED, HELD_OUT_SEED, STEPS
from benchmarks.rendering import bundled_digest, commit
from foreseer.evaluate.peers import PEERS
from foreseer.methods import METHODS
from foreseer.pipelines import load_pipeline, split_sampling

BUDGETS = (14, 9, 7)


def learn(model, training, folder):
    """Kernel and rollouts as files: those that are there are kept."""
    pipe, sampling = load_pipeline(model)
    pipe.set_progress_bar_config(disable=True)
    options = {key: value for key, value in split_sampling(sampling)[1].items() if key != "num_inference_steps"}
    path = folder / "learned.kernel.safetensors"
    if not path.exists():
        fs.calibrate(pipe, training, num_inference_steps=STEPS, seed=CALIBRATION_SEED, **options).save(path)
    kernel = fs.Kernel.load(path)
    plans = [folder / f"rollout-{budget}.plan.safetensors" for budget in BUDGETS]
    for budget, plan in zip(BUDGETS, plans, strict=True):
        if not plan.exists():
            fs.rollout(pipe, kernel, training, nfe=budget, seed=CALIBRATION_SEED, **options).save(plan)
    return path, plans


def run_bench(model, prompts, folder):
    """The bench's results, as its JSON has them."""
    path, plans = learn(model, prompts[1], folder)
    (folder / "prompts.txt").write_text("\n".join(prompts[0]) + "\n")
    names = ",".join([*METHODS, *(name for name, peer in PEERS.items() if not peer.learns)])
    command = [sys.executable, "-m", "foreseer", "bench", model, "--prompts", str(folder / "prompts.txt")]
    command += ["--nfe", ",".join(map(str, BUDGETS)), "--methods", names, "--kernel", str(path)]
    command += [word for plan in plans for word in ("--plan", str(plan))]
    command += ["--seed", str(HELD_OUT_SEED), "--threads", "1", "--measures", "psnr,ssim", "-o", str(folder / "bench")]
    subprocess.run(command, check=True)
    return json.loads((folder / "bench" / "results.json").read_text())


def table(results):
    """One row a method and budget."""
    rows = []
    for row in results["rows"][1:]:
        error = list(row["latent_error"].values())[-1] if row["latent_error"] else None
        rows.append(
            {
                "method": row["method"],
                "asked": row["budget"],
                "forward_passes": row["nfe"] and round(row["nfe"], 2),
                "FLOPs, x fewer": row["flops_speedup"] and round(row["flops_speedup"], 2),
                **{name: value and round(value, 4) for name, value in row["measures"].items()},
                "latent": error and round(error, 4),
                "failed": row["error"],
            }
        )
    return sorted(rows, key=lambda row: (-(row["asked"] or 0), -(row.get("psnr") or 0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--calibration", type=int, default=16)
    parser.add_argument("--work", type=Path, default=Path("every-method"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    # What was learned for other weights, from other captions or by other code is not taken.
    made_for = [Path(given.model).name, bundled_digest(), given.calibration, commit()[:9]]
    folder = given.work / "-".join(map(str, made_for))
    folder.mkdir(parents=True, exist_ok=True)
    captions = learning.captions if given.model == "emoji" else video.captions
    # Drawn are captions that no other table's calibration takes either.
    prompts = captions(given.prompts, 1000), captions(given.calibration, 0)
    rows = table(run_bench(given.model, prompts, folder))
    name = Path(given.model).name.replace("-", "_")
    words = f"--model {given.model} --prompts {given.prompts} --calibration {given.calibration}"
    write(f"every_method_{name}", f"python -m benchmarks.every_method {words}", rows, of_bundled=name == "emoji")


if __name__ == "__main__":
    main()
